#!/usr/bin/env bash
# Plants bugs in a copy of the gate, one at a time, and shows which test catches each: `tests/planted-bugs.sh`, or with
# the names of some. Exits 1 if one slips through, 2 if one can no longer be planted: then the code has moved on, and
# this file should, too.
#
# Needs what the tests need. Takes some 10 minutes on two cores, the first time more: dependencies are built below
# target/planted-bugs, where the copy lies as well. The repository itself is not touched. CI does not run it.
set -euo pipefail
cd "$(dirname "$0")/.."

repository=$PWD
place=$repository/target/planted-bugs
copy=$place/copy
export CARGO_TARGET_DIR=$place/target CARGO_INCREMENTAL=1 RUST_BACKTRACE=0
# A story that fails is enough: nobody reads the smallest one here.
export PROPTEST_MAX_SHRINK_TIME=1
tests=(reservations:: locks:: windows:: concurrency:: storms:: model::)
admission=host/src/store/admission/statement.rs
reservations=host/src/store/reservations/ending.rs

# plant FILE OLD NEW: replaces a text that is there exactly once.
plant() {
    local content rest
    content=$(<"$copy/$1")
    rest=${content#*"$2"}
    if [ "$rest" = "$content" ] || [ "${rest#*"$2"}" != "$rest" ]; then
        printf 'cannot plant: not there exactly once in %s:\n%s\n' "$1" "$2" >&2
        exit 2
    fi
    printf '%s\n' "${content%%"$2"*}$3$rest" >"$copy/$1"
}

bugs=(rows-not-compared denied-from-memory no-locks no-lock-order double-settle expiry-forgets-a-hold rollover-drops-a-late-settle)

bug() {
    case $1 in
    rows-not-compared) # an admission commits whatever has become of the rows since
        plant $admission ':timestamptz[])[q.i])) = cardinality($9)' \
            ':timestamptz[])[q.i])) >= 0' ;;
    denied-from-memory) # a denial is made on rows that the lane remembers
        plant host/src/gate/round.rs 'if self.fresh.contains(&job.subject()) {' \
            'if self.fresh.contains(&job.subject()) || !job.body.is_empty() {' ;;
    no-locks) # settle, release and expiry take no locks on quotas
        plant $reservations $'ORDER BY q.id FOR UPDATE\n     ), prior' $'ORDER BY q.id\n     ), prior' ;;
    no-lock-order) # they take them in another order than everybody else
        plant $reservations $'ORDER BY q.id FOR UPDATE\n     ), prior' $'ORDER BY q.id DESC FOR UPDATE\n     ), prior' ;;
    double-settle) # a settle that comes again counts again
        plant $reservations "WHEN 'settle' THEN prior.state <> 'settled'" "WHEN 'settle' THEN true" ;;
    expiry-forgets-a-hold) # what expires stays held
        plant $reservations "CASE e.state WHEN 'held' THEN e.held_usd ELSE 0 END AS freed" \
            "CASE WHEN e.state = 'held' AND e.kind <> 'expire' THEN e.held_usd ELSE 0 END AS freed" ;;
    rollover-drops-a-late-settle) # a window that is closed already takes no more spend
        plant host/src/store/ledger.rs 'SET spend_usd = least(p.spend_usd + excluded.spend_usd, 1000000000),' \
            'SET spend_usd = p.spend_usd,' ;;
    *)
        printf 'no such bug: %s (there are: %s)\n' "$1" "${bugs[*]}" >&2
        exit 2 ;;
    esac
}

fresh_copy() {
    mkdir -p "$copy"
    # Contents decide what is written, so that cargo builds nothing again that is the same.
    git ls-files -z -co --exclude-standard | while IFS= read -r -d '' file; do
        [ -f "$file" ] || continue
        mkdir -p "$copy/$(dirname "$file")"
        cmp -s "$file" "$copy/$file" || cp "$file" "$copy/$file"
    done
}

# Runs the tests in the copy; the names of those that failed, one a line.
failures() {
    local output=$place/$1.log status=0
    (cd "$copy" && cargo test --quiet --test tollgate --no-run) >"$output" 2>&1 ||
        { printf '%s does not build:\n' "$1" >&2; tail -30 "$output" >&2; return 2; }
    (cd "$copy" && timeout 600 cargo test --test tollgate -- "${tests[@]}") >"$output" 2>&1 || status=$?
    sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$output"
    [ $status -ne 124 ] || echo '(some test did not end)'
    if [ $status -eq 0 ] && ! grep -q '^test result: ok' "$output"; then
        echo "no test ran, see $output" >&2
        return 2
    fi
}

chosen=("${bugs[@]}")
[ $# -eq 0 ] || chosen=("$@")

fresh_copy
echo 'without a bug: building, testing …' >&2
found=$(failures none)
if [ -n "$found" ]; then
    printf 'tests fail that should not, see %s:\n%s\n' "$place/none.log" "$found" >&2
    exit 2
fi

slipped=0 table=
for name in "${chosen[@]}"; do
    printf '%s …\n' "$name" >&2
    fresh_copy
    bug "$name"
    found=$(failures "$name")
    if [ -z "$found" ]; then
        slipped=1 found='SLIPPED THROUGH'
    fi
    first=1
    while IFS= read -r caught; do
        table+=$(printf '%-30s %s' "$([ $first = 0 ] || echo "$name")" "$caught")$'\n'
        first=0
    done <<<"$found"
done
fresh_copy

printf '\n%-30s %s\n' bug 'caught by'
printf '%s' "$table"
exit $slipped
