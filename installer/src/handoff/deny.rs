//! Machines that the site config has left by a reboot, since they do not survive a kexec.

use metalstrap_release::host::Identity;
use metalstrap_release::site::KexecDeny;

use crate::modalias::matches;

/// What of `deny` names this machine, with these PCI devices (`15b3:1017`), if anything does.
#[must_use]
pub fn denied(deny: &[KexecDeny], machine: &Identity, pci: &[String]) -> Option<String> {
    let names = |entry: &&KexecDeny| {
        let fits = |pattern: &Option<String>, said: &Option<String>| {
            pattern.as_ref().is_none_or(|pattern| said.as_ref().is_some_and(|said| matches(pattern, said)))
        };
        fits(&entry.vendor, &machine.vendor)
            && fits(&entry.product, &machine.product)
            && entry.pci.as_ref().is_none_or(|pattern| pci.iter().any(|id| matches(pattern, id)))
    };
    let KexecDeny { vendor, product, pci } = deny.iter().find(names)?;
    let named = [("vendor", vendor), ("product", product), ("PCI device", pci)];
    let named: Vec<_> =
        named.iter().filter_map(|(what, value)| Some(format!("{what} {:?}", value.as_ref()?))).collect();
    Some(format!("kexec_deny of the site config names this machine: {}", named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_an_entry_names_must_fit() {
        let entry = |vendor: &str, product: &str, pci: &str| {
            let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            KexecDeny { vendor: given(vendor), product: given(product), pci: given(pci) }
        };
        let machine = |vendor: Option<&str>, product: Option<&str>| Identity {
            vendor: vendor.map(str::to_owned),
            product: product.map(str::to_owned),
            ..Identity::default()
        };
        let server = machine(Some("HPE"), Some("ProLiant DL380 Gen10"));
        let pci = ["8086:10fb".to_owned(), "15b3:1017".to_owned()];
        let says = |entry: KexecDeny| denied(&[entry], &server, &pci);
        assert_eq!(
            says(entry("HPE", "ProLiant DL3*", "")).unwrap(),
            "kexec_deny of the site config names this machine: vendor \"HPE\", product \"ProLiant DL3*\""
        );
        assert_eq!(
            says(entry("", "", "15b3:*")).unwrap(),
            "kexec_deny of the site config names this machine: PCI device \"15b3:*\""
        );
        assert!(says(entry("HPE", "", "8086:10fb")).is_some());
        assert_eq!(says(entry("HP", "", "")), None);
        assert_eq!(says(entry("HPE", "Apollo*", "")), None);
        assert_eq!(says(entry("HPE", "", "8086:1572")), None);
        // Who says nothing of itself is named by nothing, not even by `*`.
        assert_eq!(denied(&[entry("*", "", "")], &machine(None, None), &pci), None);
        assert_eq!(denied(&[], &server, &pci), None);
        assert!(denied(&[entry("HP", "", ""), entry("HPE", "", "")], &server, &[]).is_some());
    }
}
