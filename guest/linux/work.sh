#!/bin/busybox sh
# /init of a guest in `cargo xtask stress overcommit`: stress-ng fills and verifies memory by all its methods, beside a mix
# like a build's. Words NAME=VALUE of the kernel's command line come as variables:
#   VM_BYTES, VM_OPS   what stress-ng works on, and how much it does
#   FILES              how many files the build has
#   ROUNDS             how often it is done all over, and verified
export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /tmp/build
cd /tmp/build || exit 1

# Each file is written, translated, packed, unpacked and compared, by processes that live shortly; all stay, in memory.
build() {
    file=0
    while [ $file -lt $FILES ]; do
        seq $((file * 1000)) $((file * 1000 + 1500)) > $file.c
        sed 's/7/seven/; s/3/three/g' $file.c | sort -r > $file.i
        gzip -c $file.i > $file.o
        gunzip -c $file.o | cmp -s - $file.i || return 1
        file=$((file + 1))
    done
    cat ./*.o > program
    md5sum ./*.c ./*.i ./*.o program > sums
}

echo 'work: begins'
round=0
verdict=ok
while [ $round -lt $ROUNDS ]; do
    build &
    builder=$!
    stress-ng --vm 1 --vm-method all --verify --vm-bytes $VM_BYTES --vm-ops $VM_OPS --temp-path /tmp || verdict=FAILED
    wait $builder || verdict=FAILED
    md5sum -c -s sums || verdict=FAILED
    round=$((round + 1))
    echo "work: round $round of $ROUNDS, $verdict"
done
echo "work: $verdict, $(cut -d ' ' -f 1 /proc/uptime) s"
poweroff -f
