//! Tier templates: the quotas that a tenant of a tier is given. `[tiers.NAME.RESOURCE]` in `tollgate.toml`, a limit for
//! each period; a template there replaces the built-in one of its name.

use std::collections::BTreeMap;

use crate::money::Money;
use crate::period::Period;
use crate::quota::{ResourceType, Tier};

/// The quotas of a tier: resource type, period, limit.
pub type Template = Vec<(ResourceType, Period, Money)>;

/// Every tier that has a template.
pub type Templates = BTreeMap<Tier, Template>;

/// What is there where the file says nothing else.
const BUILT_IN: &str = r#"
[free]
llm = { day = "1.00" }
e2b = { day = "0.50" }
[pro]
llm = { day = "50.00" }
e2b = { day = "10.00" }
[enterprise]
llm = { day = "500.00", month = "10000.00" }
e2b = { day = "100.00", month = "2000.00" }
"#;

/// The built-in templates.
pub fn built_in() -> Templates {
    let table: Result<toml::Table, _> = BUILT_IN.parse();
    table.ok().and_then(|table| parse(&table).ok()).unwrap_or_default()
}

/// Reads `[tiers]`.
///
/// # Errors
/// A sentence that names the key and what would be right.
pub fn parse(tiers: &toml::Table) -> Result<Templates, String> {
    let mut templates = Templates::new();
    for (name, resources) in tiers {
        let tier = Tier::parse(name).map_err(|fault| format!("tiers.{name}: {fault}"))?;
        let template = template(&format!("tiers.{name}"), resources)?;
        // Without a quota a resource is unlimited: a template must not forget one.
        for needed in [ResourceType::LLM, ResourceType::E2B] {
            if !template.iter().any(|(resource, ..)| resource.as_str() == needed) {
                return Err(format!(
                    "tiers.{name}: has no quota for {needed}, which would be unlimited; give it one, such as {needed} = {{ day = \"10.00\" }}"
                ));
            }
        }
        templates.insert(tier, template);
    }
    Ok(templates)
}

fn template(place: &str, resources: &toml::Value) -> Result<Template, String> {
    let resources = resources
        .as_table()
        .ok_or_else(|| format!("{place}: a table of resource types, such as llm = {{ day = \"50.00\" }}"))?;
    let mut template = Template::new();
    for (resource, periods) in resources {
        let place = format!("{place}.{resource}");
        let resource = ResourceType::parse(resource).map_err(|fault| format!("{place}: {fault}"))?;
        let periods = periods
            .as_table()
            .filter(|periods| !periods.is_empty())
            .ok_or_else(|| format!("{place}: a limit for each period, such as {{ day = \"50.00\" }}"))?;
        for (period, limit) in periods {
            let place = format!("{place}.{period}");
            let period: Period = period.parse().map_err(|fault| format!("{place}: {fault}"))?;
            let text = match limit {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(dollars) => dollars.to_string(),
                _ => return Err(format!("{place}: an amount as a text, such as \"50.00\"")),
            };
            let limit = match Money::parse(&text) {
                Ok(Money::ZERO) => {
                    return Err(format!(
                        "{place}: above 0; a quota that allows nothing has a limit of \"0.000000001\""
                    ));
                }
                limit => limit.map_err(|fault| format!("{place}: {fault}"))?,
            };
            template.push((resource.clone(), period, limit));
        }
    }
    template.sort();
    Ok(template)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Templates, String> {
        parse(&text.parse().unwrap_or_else(|error| panic!("{error}")))
    }

    #[test]
    fn the_built_in_tiers_have_both_quotas() {
        let names: Vec<String> = built_in().keys().map(ToString::to_string).collect();
        assert_eq!(names, ["enterprise", "free", "pro"]);
    }

    #[test]
    fn a_template_that_makes_no_sense_is_refused_by_name() {
        for (text, fragment) in [
            ("gold = 5", "tiers.gold: a table of resource types"),
            ("gold = { llm = 5 }", "tiers.gold.llm: a limit for each period"),
            ("gold = { llm = { day = 0.5 } }", "tiers.gold.llm.day: an amount as a text"),
            ("gold = { llm = { day = \"0\" } }", "tiers.gold.llm.day: above 0"),
            ("gold = { llm = { daily = \"1\" } }", "tiers.gold.llm.daily: one of hour, day"),
            ("gold = { llm = { day = \"1\" } }", "tiers.gold: has no quota for e2b, which would be unlimited"),
            ("Gold = { llm = { day = \"1\" } }", "tiers.Gold: a lower-case letter"),
        ] {
            assert!(read(text).is_err_and(|fault| fault.contains(fragment)), "{text}: {:?}", read(text));
        }
    }
}
