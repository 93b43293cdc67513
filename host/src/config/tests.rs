use super::*;

fn load(environment: &[(&str, &str)], flags: &[(&'static str, Option<String>)]) -> Result<Config, String> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::from_parts(None, &environment, flags, Surroundings::default()).map_err(|error| error.to_string())
}

#[test]
fn flags_go_over_the_environment_and_the_environment_over_defaults() {
    let config = load(
        &[("TOLLGATE_LISTEN", "127.0.0.1:1"), ("TOLLGATE_DATA_DIR", "data")],
        &[("listen", Some("127.0.0.1:2".into()))],
    );
    let config = config.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.listen.to_string(), "http://127.0.0.1:2");
    assert_eq!((config.policies, config.log_level.as_str()), (PathBuf::from("data/policies"), "info"));
}

#[test]
fn an_unknown_variable_is_an_error_that_names_its_neighbour() {
    let error = load(&[("TOLLGATE_LISTN", "127.0.0.1:1")], &[]).err();
    assert_eq!(error.as_deref(), Some("TOLLGATE_LISTN: unknown variable, did you mean \"TOLLGATE_LISTEN\"?"));
    assert!(
        load(&[("TOLLGATE_PORT_8080_TCP", "tcp://10.0.0.1:8080"), ("TOLLGATE_SERVICE_HOST", "10.0.0.1")], &[]).is_ok()
    );
}

#[test]
fn an_address_that_others_reach_needs_tokens() {
    let everywhere = [("listen", Some("0.0.0.0:8080".to_owned()))];
    let check = |environment| load(environment, &everywhere)?.check_listen().map_err(|error| error.to_string());
    assert!(check(&[]).is_err_and(|error| error.contains("TOLLGATE_APP_TOKEN")));
    assert_eq!(check(&[("TOLLGATE_APP_TOKEN", "secret")]), Ok(()));
}

#[test]
fn decisions_are_kept_for_thirty_days_for_so_many_or_for_ever() {
    let kept = |text| load(&[("TOLLGATE_DECISIONS_KEEP_DAYS", text)], &[]).map(|config| config.decisions_keep_days);
    assert_eq!(load(&[], &[]).map(|config| config.decisions_keep_days).ok(), Some(Some(30)));
    assert_eq!((kept("7"), kept("0")), (Ok(Some(7)), Ok(None)));
    let says = "TOLLGATE_DECISIONS_KEEP_DAYS: days, 1 to 3650, or 0 for ever, got ";
    assert_eq!((kept("-1"), kept("3651")), (Err(format!("{says}\"-1\"")), Err(format!("{says}\"3651\""))));
}

#[test]
fn the_replaced_systems_variables_switch_enforcement_off() {
    let config = load(&[("ENFORCE_E2B_QUOTAS", "false")], &[]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((config.enforcement.e2b, config.enforcement.others), (false, true));
    assert!(load(&[("ENFORCE_COST_QUOTAS", "no")], &[]).err().is_some_and(|error| error.contains("true or false")));
}
