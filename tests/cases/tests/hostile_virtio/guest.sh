# What a guest does while its host lies about its devices. Run by the shell of the default initramfs.
say() { echo "guest-check: $1"; }

# A command whose device may never answer: after a while it is left behind.
try() {
    name=$1
    shift
    rm -f /tmp/status
    (
        "$@" >/tmp/out 2>&1
        echo $? >/tmp/status
    ) &
    n=0
    while [ ! -s /tmp/status ] && [ $n -lt ${PATIENCE:-40} ]; do
        usleep 100000
        n=$((n + 1))
    done
    if [ -s /tmp/status ]; then say "$name $(cat /tmp/status)"; else say "$name hangs"; fi
}

drop() { echo 3 >/proc/sys/vm/drop_caches; }

head -c 8388608 /dev/urandom >/tmp/canary
sha256sum /tmp/canary >/tmp/canary.sum

if [ -b /dev/vda ]; then
    say "disk $(cat /sys/block/vda/size)"
    for round in 1 2 3; do
        yes "round $round of what the guest wrote" | head -c 262144 >/tmp/written
        try "write-$round" dd if=/tmp/written of=/dev/vda bs=16k seek=2 conv=notrunc,fsync
        try "drop-$round" drop
        rm -f /tmp/read
        try "read-$round" dd if=/dev/vda of=/tmp/read bs=16k skip=2 count=16
        # What comes back in part is right as far as it goes, or another request's.
        touch /tmp/read
        bytes=$(wc -c </tmp/read)
        if ! head -c "$bytes" /tmp/written | cmp -s - /tmp/read; then
            say "data-$round other"
        elif [ "$bytes" = 262144 ]; then
            say "data-$round same"
        else
            say "data-$round none"
        fi
    done
else
    say "no disk"
fi

if [ -d /sys/class/net/eth0 ]; then
    ip link set eth0 up
    try dhcp udhcpc -i eth0 -n -q -t 8 -T 1
    ip address add 10.0.2.15/24 dev eth0 2>/dev/null
    try ping ping -c 8 -W 1 10.0.2.2
    say "pings $(sed -n 's/.* \([0-9]*\) packets received.*/\1/p' /tmp/out)"
    say "card-features $(cat /sys/class/net/eth0/device/features)"
    # Nobody listens there.
    try connect nc -w 10 10.0.2.2 1 </dev/null
    grep -q refused /tmp/out && say "connected refused"
else
    say "no card"
fi

if sha256sum -c /tmp/canary.sum >/dev/null 2>&1; then say "canary ok"; else say "canary changed"; fi
if dmesg | grep -E 'BUG:|Oops|general protection|WARNING:' | grep -v 'Speculative Return Stack Overflow'; then
    say "kernel-log has complaints"
else
    say "kernel-log clean"
fi
say "done"
poweroff -f
