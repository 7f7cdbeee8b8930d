# Runs in the installed OS, in a directory that the host has filled, and leaves in `out` what the host judges: the values of the
# PCRs in each active bank, PCR 11 in each phase, the event logs, systemd-pcrlock's opinion of them, a block of a LUKS2 volume that
# the TPM has opened, in the initrd and here, and what tpm2_checkquote says of a quote.
luks=/dev/disk/by-id/virtio-LUKS
mkdir out

# Before anything below changes a PCR.
for bank in /sys/class/tpm/tpm0/pcr-*; do
    for pcr in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
        echo "${bank##*/pcr-} $pcr $(tr A-F a-f <"$bank/$pcr")"
    done
done >out/pcrs
# What PCR 11 was in each phase, and what the initrd has read of the volume.
cp /run/pcr11-at-* out
journalctl --boot --no-pager --output=cat --unit=metalstrap-prove-in-initrd
[ ! -e /run/block-in-initrd ] || cp /run/block-in-initrd out
cat /run/log/systemd/tpm2-measure.log >out/userspace
cat /sys/kernel/security/tpm0/binary_bios_measurements >out/firmware
# What the installer had handed over; a boot from the disk has none.
cat /run/metalstrap/binary_bios_measurements >out/firmware-handed
# The copies on the disk, which every boot has.
cat /var/log/metalstrap/tpm2-measure.log >out/userspace-on-disk
cat /var/log/metalstrap/binary_bios_measurements >out/firmware-on-disk
(cd /var/log/metalstrap && stat -c '%a %U %n' . *) >out/modes-on-disk
findmnt -no FSTYPE -T /var/log/metalstrap >out/filesystem-on-disk
/usr/lib/systemd/systemd-pcrlock log --json=short >out/pcrlock
cp /run/systemd/tpm2-pcr-signature.json /run/systemd/tpm2-pcr-public-key.pem out

# The first boot: the volume gets what it is to hold, and its second key, which the TPM has.
if [ -e key ]; then
    systemd-cryptsetup attach proof "$luks" "$PWD/key" luks
    dd if=known of=/dev/mapper/proof bs=4096 count=1 conv=fsync
    systemd-cryptsetup detach proof
    # It would take a policy of systemd-pcrlock too, which Debian makes of what this boot has measured.
    systemd-cryptenroll --unlock-key-file="$PWD/key" --tpm2-device=auto --tpm2-pcrs= --tpm2-pcrlock= \
        --tpm2-public-key="$PWD/pcr.pub" --tpm2-public-key-pcrs=11 "$luks"
fi
if systemd-cryptsetup attach proof "$luks" - luks,tpm2-device=auto,headless=yes; then
    dd if=/dev/mapper/proof of=out/block bs=4096 count=1
    systemd-cryptsetup detach proof
fi

if [ -e quote ]; then
    check() { tpm2_checkquote -u ak.pem -m quote -s signature -f values -g sha256 -q "$1" >/dev/null; }
    if check "$(cat nonce)"; then echo taken; else echo refused; fi >out/quote
    if check 00000000000000000000000000000000; then echo taken; else echo refused; fi >out/quote-of-another-nonce
fi

# At another value the volume stays shut.
tpm2_pcrextend 11:sha256=5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
if systemd-cryptsetup attach proof "$luks" - luks,tpm2-device=auto,headless=yes; then
    dd if=/dev/mapper/proof of=out/block-at-another-value bs=4096 count=1
    systemd-cryptsetup detach proof
fi
