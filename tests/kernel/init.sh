#!/bin/sh
# Process 1 of the VM, until it executes what the host has laid into /run/out/start: init.sh REPOSITORY PYTHON_PREFIX RELEASE
# What it mounts before is what any machine needs whose init is oxmgr: docs/runtime.md has the same without the VM's own.
repository=$1 prefix=$2
export KERNEL_VM="$3" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
set -e
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for folder in /run /tmp /var; do mount -t tmpfs tmpfs "$folder"; done
mkdir /dev/shm /run/out /run/root /run/tests
mount -t tmpfs tmpfs /dev/shm

mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 virtme.initmount0 /run/out
# Of the root with a cache as in guest.sh, what Python reads.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose virtme.initmount1 /run/root
for folder in /usr "$prefix" "$repository"; do mount --bind "/run/root$folder" "$folder"; done

cd "$repository"
. /run/out/start
