#!/bin/busybox sh
# First process of the default guest. stockade.mode=check on the command line: look around, say what is there, power off;
# otherwise a shell on the console.
export PATH=/bin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin

# Drivers for what is there: a device says what it is, the lists beside the modules say which of them takes it.
drive() {
    for kind in "$1"/*/modalias; do [ -f "$kind" ] && modprobe -q "$(cat "$kind")"; done
}
for vendor in /sys/bus/pci/devices/*/vendor; do
    read -r id <"$vendor"
    [ "$id" = 0x1af4 ] || continue
    echo /bin/modprobe >/proc/sys/kernel/modprobe
    drive /sys/bus/pci/devices
    drive /sys/bus/virtio/devices
    break
done

say() { echo "guest-check: $1"; }

uptime_centis() { read -r up _ </proc/uptime; echo "${up%.*}${up#*.}"; }

check() {
    say "kernel $(uname -r)"
    say "cpus $(grep -c ^processor /proc/cpuinfo)"
    say "memory-kib $(awk '/MemTotal/ { print $2 }' /proc/meminfo)"
    # The kernel settles on its clock a second or two after start.
    clock=/sys/devices/system/clocksource/clocksource0/current_clocksource
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        case $(cat $clock) in *-early) usleep 500000 ;; *) break ;; esac
    done
    say "clocksource $(cat $clock)"
    # Only a kernel that knows it is confidential has this line.
    dmesg | sed -n 's/.*\(Memory Encryption Features active: .*\)/\1/p' | while read -r line; do say "$line"; done
    if grep -qwE 'sev|sev_es|sev_snp' /proc/cpuinfo; then say "sev visible"; else say "sev hidden"; fi
    start=$(uptime_centis)
    for _ in 1 2 3 4 5 6 7 8 9 10; do usleep 50000; done
    took=$(($(uptime_centis) - start))
    if [ "$took" -ge 50 ] && [ "$took" -lt 500 ]; then say "timer ok"; else say "timer off: $took cs for 50"; fi
    if dmesg | grep -iE 'ACPI.*(Warning|Error)|APIC error|clocksource.*unstable|Marking TSC|MP-BIOS bug|\[firmware (bug|warn|info)\]|firmware bug|FW bug|unchecked MSR|BUG:|WARNING:' | grep -v 'Speculative Return Stack Overflow'; then
        say "log has complaints"
    else
        say "log clean"
    fi
    say "done"
}

# The tests' words: stockade.marker=WORD writes a page of WORD to memory and keeps it there until the end.
for word in $(cat /proc/cmdline); do
    case $word in
    stockade.mode=*) mode=${word#stockade.mode=} ;;
    stockade.marker=*) marker=${word#stockade.marker=} ;;
    esac
done

if [ -n "$marker" ]; then
    i=0
    while [ $i -lt 512 ]; do printf '%s-in-guest-memory.' "$marker"; i=$((i + 1)); done >/tmp/marker
    say "marker written $(wc -c </tmp/marker)"
fi

# A file as hexadecimal digits, for the other end of a console that is not clean for eight bits.
dump() {
    say "begin $2"
    hexdump -v -e '32/1 "%02x" "\n"' "$1"
    say "end $2"
}

case $mode in
check) check; poweroff -f ;;
acpi) for table in /sys/firmware/acpi/tables/[A-Z]*; do dump "$table" "${table##*/}"; done; poweroff -f ;;
echo) say "echoing"; while read -r line; do [ "$line" = quit ] && break; echo "echo: $line"; done; poweroff -f ;;
reboot) say "rebooting"; reboot -f ;;
crash) echo c >/proc/sysrq-trigger ;;
dmesg) dmesg; poweroff -f ;;
interrupts) cat /proc/interrupts; poweroff -f ;;
*) echo; echo "Stockade: a shell in the confidential guest. 'poweroff -f' ends it, Ctrl-A X quits."; setsid cttyhack sh; poweroff -f ;;
esac
sleep 60
