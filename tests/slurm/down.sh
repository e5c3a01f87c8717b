#!/usr/bin/env bash
# Stops what up.sh started, by its pid files. SLURM_WIPE=1 also removes SLURM_DIR.
set -uo pipefail

readonly D=${SLURM_DIR:-/tmp/deltalab-slurm} MARK="# written by tests/slurm/up.sh"
export SLURM_CONF=$D/slurm.conf

gone() { # PID
    case "$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1)" in "" | Z) return 0 ;; *) return 1 ;; esac
}

stop() { # PIDFILE PROGRAM: a pid that another program has by now is left alone
    [ -s "$1" ] || return 0
    local pid i
    pid=$(cat "$1")
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ]; then
        kill "$pid" 2>/dev/null
        for ((i = 0; i < 100; i++)); do
            if gone "$pid"; then break; fi
            sleep 0.1
        done
        gone "$pid" || kill -9 "$pid"
    fi
    rm -f "$1"
}

grep -qF "$MARK" "$SLURM_CONF" 2>/dev/null || { echo "tests/slurm/down.sh: no cluster of up.sh in $D" >&2; exit 1; }
if timeout 5 scontrol ping 2>/dev/null | grep -q "is UP"; then
    timeout 10 scancel -u root -Q 2>/dev/null
    for ((i = 0; i < 50; i++)); do
        if [ -z "$(timeout 5 squeue -h 2>/dev/null)" ]; then break; fi
        sleep 0.1
    done
fi
for file in "$D"/run/slurmd.*.pid; do stop "$file" slurmd; done
stop "$D/run/slurmctld.pid" slurmctld
stop "$D/run/slurmdbd.pid" slurmdbd
stop "$D/run/mariadbd.pid" mariadbd
stop "$D/munge/pid" munged
if hosts=$(grep -vF "$MARK for $D" /etc/hosts); then echo "$hosts" >/etc/hosts; fi # in place: a container mounts this file
[ "${SLURM_WIPE:-0}" != 1 ] || rm -rf "$D"
echo "down"
