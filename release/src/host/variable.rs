//! Variables in the text of a credential: `${serial}` and the like stand for what a machine says of itself.
//!
//! Firmware says what it likes, and whoever has been at a machine may have written its serial number. So what it says is
//! taken only where it is short and plain: it must not bring another line, end a quoted word or begin a comment.

use super::{HostKey, Identity};

/// Bytes of a value at most: what SMBIOS has for a string.
const MOST_BYTES: usize = 64;

/// What a variable stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variable {
    Serial,
    Uuid,
    Mac,
    Vendor,
    Product,
}

const ALL: [Variable; 5] = [Variable::Serial, Variable::Uuid, Variable::Mac, Variable::Vendor, Variable::Product];

impl Variable {
    fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Uuid => "uuid",
            Self::Mac => "mac",
            Self::Vendor => "vendor",
            Self::Product => "product",
        }
    }

    /// What a machine that does not say it lacks.
    fn meaning(self) -> &'static str {
        match self {
            Self::Serial => "serial number",
            Self::Uuid => "UUID",
            Self::Mac => "address of an Ethernet port",
            Self::Vendor => "manufacturer",
            Self::Product => "product name",
        }
    }
}

/// The text with what `value` says for its variables.
///
/// # Errors
/// A variable that does not exist, a dollar that begins none, and what `value` says; with the line of the text.
pub(super) fn expand(text: &str, value: impl Fn(Variable) -> Result<String, String>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('$') {
        expanded.push_str(before);
        let line = || {
            let so_far = text.len().saturating_sub(behind.len());
            text.get(..so_far).map_or(1, |so_far| so_far.matches('\n').count().saturating_add(1))
        };
        if let Some(behind) = behind.strip_prefix('$') {
            expanded.push('$');
            rest = behind;
            continue;
        }
        let Some((name, behind)) = behind.strip_prefix('{').and_then(|behind| behind.split_once('}')) else {
            return Err(format!("has a `$` in line {} that begins no variable; `$$` stands for a dollar", line()));
        };
        let Some(variable) = ALL.into_iter().find(|variable| variable.name() == name) else {
            let name: String = name.chars().take(40).collect();
            let all = ALL.map(Variable::name).join(", ");
            return Err(format!("has the variable {name:?} in line {}, which is none of {all}", line()));
        };
        let value = value(variable).map_err(|problem| format!("has ${{{name}}} in line {}, but {problem}", line()))?;
        expanded.push_str(&value);
        rest = behind;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// What `machine` says for a variable.
///
/// # Errors
/// It says nothing, what firmware says that knows nothing, or what may not stand in a text.
pub(super) fn fact(variable: Variable, machine: &Identity) -> Result<String, String> {
    let said = match variable {
        Variable::Serial => machine.serial.clone(),
        Variable::Uuid => machine.uuid.clone(),
        Variable::Mac => return machine.lowest_mac().ok_or_else(|| missing(variable)),
        Variable::Vendor => machine.vendor.clone(),
        Variable::Product => machine.product.clone(),
    };
    let said = said.as_deref().map(str::trim).filter(|said| !said.is_empty()).ok_or_else(|| missing(variable))?;
    let of_machine = |key: Result<HostKey, super::KeyError>| key.map_err(|error| error.to_string());
    match variable {
        Variable::Uuid => {
            let uuid = said.parse::<uuid::Uuid>().map_err(|_| missing(variable))?;
            of_machine(HostKey::uuid(uuid))?;
            return Ok(uuid.to_string());
        }
        Variable::Serial => drop(of_machine(HostKey::serial(said))?),
        Variable::Mac | Variable::Vendor | Variable::Product => {}
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" ._-+:,()[]".contains(&byte);
    if said.len() > MOST_BYTES || !said.bytes().all(plain) {
        let said: String = said.chars().take(80).collect();
        return Err(format!(
            "the machine's {} {said:?} is not at most {MOST_BYTES} letters, digits, spaces and ._-+:,()[]",
            variable.meaning()
        ));
    }
    Ok(said.to_owned())
}

fn missing(variable: Variable) -> String {
    format!("the machine says no {}", variable.meaning())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(variable: Variable) -> Result<String, String> {
        Ok(format!("<{}>", variable.name()))
    }

    #[test]
    fn variables_are_replaced_and_two_dollars_are_one() {
        let expanded = |text: &str| expand(text, named).unwrap();
        assert_eq!(expanded(""), "");
        assert_eq!(expanded("a${serial}${mac}\n${product}z"), "a<serial><mac>\n<product>z");
        assert_eq!(expanded("$$${uuid}$$$$ $${vendor}"), "$<uuid>$$ ${vendor}");
        // What a variable brings is not looked at again.
        assert_eq!(expand("${serial}", |_| Ok("${uuid}$".to_owned())).unwrap(), "${uuid}$");
    }

    #[test]
    fn what_is_no_variable_is_named_with_its_line() {
        let refused = |text: &str| expand(text, named).unwrap_err();
        let dollar = "that begins no variable; `$$` stands for a dollar";
        assert_eq!(refused("a\n\nb $HOME"), format!("has a `$` in line 3 {dollar}"));
        assert_eq!(refused("$"), format!("has a `$` in line 1 {dollar}"));
        assert_eq!(refused("${serial"), format!("has a `$` in line 1 {dollar}"));
        let none = "which is none of serial, uuid, mac, vendor, product";
        assert_eq!(refused("x\n${Serial}"), format!("has the variable \"Serial\" in line 2, {none}"));
        assert_eq!(refused("${}"), format!("has the variable \"\" in line 1, {none}"));
    }

    #[test]
    fn what_a_machine_says_is_taken_only_where_it_is_plain() {
        let of = |variable: Variable, said: &str| {
            let said = Some(said.to_owned());
            let machine = match variable {
                Variable::Serial => Identity { serial: said, ..Identity::default() },
                Variable::Uuid => Identity { uuid: said, ..Identity::default() },
                Variable::Mac => Identity { macs: said.into_iter().collect(), ..Identity::default() },
                Variable::Vendor => Identity { vendor: said, ..Identity::default() },
                Variable::Product => Identity { product: said, ..Identity::default() },
            };
            fact(variable, &machine)
        };
        assert_eq!(of(Variable::Product, " ProLiant DL360 Gen10 \n").unwrap(), "ProLiant DL360 Gen10");
        assert_eq!(of(Variable::Mac, "52:54:00:AB:cd:ef").unwrap(), "52:54:00:ab:cd:ef");
        for wrong in ["a\nb", "a\"b", "a'b", "a`b", "a$b", "a%b", "a/b", "a\\b", "a#b", "a\u{7f}", "ü", &"x".repeat(65)]
        {
            for (variable, what) in [(Variable::Vendor, "manufacturer"), (Variable::Product, "product name")] {
                let text =
                    format!("the machine's {what} {wrong:?} is not at most 64 letters, digits, spaces and ._-+:,()[]");
                assert_eq!(of(variable, wrong).unwrap_err(), text);
            }
            assert!(of(Variable::Serial, wrong).is_err());
        }
        assert_eq!(
            of(Variable::Serial, "Default string").unwrap_err(),
            "the serial number \"Default string\" is what firmware says that knows none: it names no machine"
        );
        assert_eq!(of(Variable::Serial, " ").unwrap_err(), "the machine says no serial number");
        assert_eq!(of(Variable::Uuid, "x").unwrap_err(), "the machine says no UUID");
        assert_eq!(
            of(Variable::Uuid, "ffffffff-ffff-ffff-ffff-ffffffffffff").unwrap_err(),
            "the UUID ffffffff-ffff-ffff-ffff-ffffffffffff is what firmware says that knows none: it names no machine"
        );
        assert_eq!(
            of(Variable::Mac, "00:00:00:00:00:00").unwrap_err(),
            "the machine says no address of an Ethernet port"
        );
        assert_eq!(fact(Variable::Product, &Identity::default()).unwrap_err(), "the machine says no product name");
    }
}
