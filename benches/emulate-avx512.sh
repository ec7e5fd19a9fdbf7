#!/bin/bash
# Runs the kernels' tests on an emulated processor with instructions that this machine may lack.
#
#   benches/emulate-avx512.sh VMLINUZ [MODEL] [TEST...]
#
# VMLINUZ  a Linux kernel image that boots from an initramfs alone and has a serial console built in; Debian
#          13's cloud kernel (6.12) works, Debian 12's (6.1) hangs in Bochs. It need not be installed:
#          unpack the package and point at boot/vmlinuz-*.
# MODEL    a processor of Bochs: corei7_icelake_u (AVX-512 VNNI; the default), arrow_lake (AVX-VNNI alone)
# TEST     what to build and run, as arguments of `cargo test`; default: --lib --test products --test golden
#
# Needs Bochs 3.0 or newer with the terminal display and its BIOS files (2.7 misstates the layout of saved registers),
# a static busybox, cpio, script, and grub-mkrescue with its i386-pc modules, xorriso and mtools. BOCHS and
# BUSYBOX name other programs, BXSHARE the folder of BIOS files, SECONDS_MOST the limit (3600).
# Exit status 0: every test passed.
set -euo pipefail
cd "$(dirname "$0")/.."
kernel=${1:?usage: $0 VMLINUZ [MODEL] [TEST...]}
model=${2:-corei7_icelake_u}
tests=("${@:3}")
((${#tests[@]})) || tests=(--lib --test products --test golden)
bochs=${BOCHS:-bochs}
busybox=${BUSYBOX:-$(command -v busybox)}
share=${BXSHARE:-/usr/share/bochs}
target=x86_64-unknown-linux-gnu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A target named outright keeps crt-static away from build scripts and macros.
RUSTFLAGS="-C target-feature=+crt-static" cargo test --release --target $target -p meden-kernels \
    --no-run --message-format=json "${tests[@]}" | grep -o '"executable":"[^"]*"' | cut -d'"' -f4 >"$work/list"

mkdir -p "$work"/root/{proc,dev,tmp,tests} "$work/iso/boot/grub"
cp "$busybox" "$work/root/busybox"
while read -r test; do cp "$test" "$work/root/tests/"; done <"$work/list"
cat >"$work/root/init" <<'END'
#!/busybox sh
/busybox mount -t proc proc /proc
/busybox mount -t devtmpfs dev /dev
/busybox mount -t tmpfs tmp /tmp
failed=0
for test in /tests/*; do
    echo "== $test"
    $test --nocapture --test-threads=1 || failed=1
done
echo "== failed: $failed"
/busybox sleep 3 # the console has to drain
/busybox poweroff -f
END
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/iso/boot/initrd"
cp "$kernel" "$work/iso/boot/vmlinuz"
cat >"$work/iso/boot/grub/grub.cfg" <<'END'
set timeout=0
menuentry tests { linux /boot/vmlinuz console=ttyS0 quiet panic=-1 mitigations=off; initrd /boot/initrd; }
END
grub-mkrescue -o "$work/boot.iso" "$work/iso" 2>/dev/null
cat >"$work/bochsrc" <<END
config_interface: textconfig
display_library: term
romimage: file=$share/BIOS-bochs-latest
vgaromimage: file=$share/VGABIOS-lgpl-latest
memory: guest=1024, host=1024
cpu: model=$model, ips=100000000
clock: sync=none
ata0-master: type=cdrom, path=$work/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial
log: $work/log
panic: action=fatal
error: action=ignore
info: action=ignore
END
# Its display wants a terminal; powering off ends it with a status that says nothing.
TERM=xterm timeout "${SECONDS_MOST:-3600}" nice -n 19 \
    script -qec "$bochs -q -f $work/bochsrc" /dev/null </dev/null >/dev/null 2>&1 || true
tr -d '\r' <"$work/serial"
grep -q "== failed: 0" "$work/serial"
