#!/bin/sh
# Bundles on a 64-bit ARM that QEMU emulates: whether they give their known outputs there. Timings mean nothing there,
# and say so.
#
#     sudo apt-get install qemu-user-static debootstrap
#     sudo benchmarks/emulated_arm.sh FOLDER BUNDLE...
#
# FOLDER takes Debian's Python for arm64 and ONNX Runtime's wheel for it, of the version that `python3` has here; what
# is there already is used again.
set -eu
root=$(mkdir -p "$1" && cd "$1" && pwd)
shift
here=$(cd "$(dirname "$0")" && pwd)
packages=$root/usr/lib/python3/dist-packages
if [ ! -e "$root/proc/cpuinfo" ]; then
    debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,libstdc++6 bookworm "$root"
    for package in "$root"/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$root"; done
    mkdir -p "$packages" "$root/wheels" "$root/proc"
    version=$(python3 -c 'import onnxruntime; print(onnxruntime.__version__)')
    python3 -m pip download --only-binary=:all: --python-version 3.11 --dest "$root/wheels" "onnxruntime==$version" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64
    for wheel in "$root"/wheels/*.whl; do (cd "$packages" && python3 -m zipfile -e "$wheel" .); done
    # QEMU shows programs the real machine's /proc/cpuinfo, at which ONNX Runtime for ARM ends with a crash.
    for core in 0 1; do
        printf 'processor\t: %d\nFeatures\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm asimddp
CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n' $core
    done >"$root/proc/cpuinfo"
fi
emulated() { qemu-aarch64-static -cpu cortex-a76 -L "$root" "$root/usr/bin/python3.11" "$@"; }
emulated -c "
import sys; sys.path.insert(0, '$here/../compressor/machine')
import platform, onnxruntime, probe
state = probe.state()
print(platform.machine(), 'onnxruntime', onnxruntime.__version__, '-', *probe.changed(state, state))"
status=0
for bundle; do
    printf '%s: ' "$bundle"
    emulated "$bundle/run.py" --verify "$bundle" || status=$?
done
exit $status
