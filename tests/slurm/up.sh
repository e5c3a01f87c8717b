#!/usr/bin/env bash
# Brings up a real Slurm on this machine for tests: several nodes with fake GPUs, preemption, accounting; no systemd.
#
# Root on Debian or Ubuntu. Called again it starts what is not running and applies changed settings.
# Outside SLURM_DIR it adds the nodes' names to /etc/hosts, no more; down.sh takes them away.
# Client programs find the cluster through the environment: export SLURM_CONF=$SLURM_DIR/slurm.conf
#
#   SLURM_DIR             configuration, state, logs, database; /etc/slurm is not touched  (/tmp/deltalab-slurm)
#   SLURM_NODES           nodes n1, n2, ... on this machine                                (4)
#   SLURM_CPUS            CPUs that each node pretends to have                             (8)
#   SLURM_GPUS            fake GPUs of each node                                           (4)
#   SLURM_BASE_PORT       first of the ports used                                          (26817)
#   SLURM_PREEMPT_SIGNAL  user: preemption sends the signal of --signal; term: SIGTERM     (user)
#   SLURM_GRACE           GraceTime: seconds between preemption and its end                (6)
#   SLURM_MAX_ARRAY       MaxArraySize; the largest index is one less                      (1001)
#   SLURM_SUBMIT_LIMIT    jobs a user may have in QOS `few` or under account `few`         (3)
#
# Partitions: debug (default); low, whose jobs those of high preempt (requeue, GraceTime); high.
set -euo pipefail

readonly D=${SLURM_DIR:-/tmp/deltalab-slurm} NODES=${SLURM_NODES:-4} CPUS=${SLURM_CPUS:-8} GPUS=${SLURM_GPUS:-4}
readonly PORT=${SLURM_BASE_PORT:-26817} PREEMPT=${SLURM_PREEMPT_SIGNAL:-user} LIMIT=${SLURM_SUBMIT_LIMIT:-3} GRACE=${SLURM_GRACE:-6}
readonly MARK="# written by tests/slurm/up.sh" SOCKET=$D/munge/socket DATABASE=$D/run/mysql/socket
export SLURM_CONF=$D/slurm.conf
HOST=$(hostname -s)
readonly HOST

die() {
    echo "tests/slurm/up.sh: $*" >&2
    exit 1
}

alive() { # PIDFILE: it names a live process (a zombie that PID 1 has not reaped is not one)
    [ -s "$1" ] && case "$(sed 's/.*) //' "/proc/$(cat "$1")/stat" 2>/dev/null | cut -c1)" in "" | Z) return 1 ;; esac
}

await() { # SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2 seconds=$1
    shift 2
    while [ $SECONDS -le $end ]; do
        "$@" >"$D/log/await.log" 2>&1 && return
        sleep 0.1
    done
    die "$what not ready after $seconds s; logs in $D/log; last answer: $(tail -n 1 "$D/log/await.log")"
}

packages() {
    local package missing=()
    for package in munge slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin mariadb-server; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    apt-get update -qq
    # a package's own service must not start: it has no configuration
    printf '#!/bin/sh\nexit 101\n' >"$D/policy-rc.d"
    chmod +x "$D/policy-rc.d"
    [ -e /usr/sbin/policy-rc.d ] || { ln -s "$D/policy-rc.d" /usr/sbin/policy-rc.d && trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$D/log/apt.log" 2>&1 ||
        die "apt-get install ${missing[*]} failed; see $D/log/apt.log"
}

folders() {
    mkdir -p "$D"/{state,spool,log,run,gpu,mysql,munge}
    chmod 755 "$D" "$D/munge"
    for ((i = 1; i <= NODES; i++)); do mkdir -p "$D/spool/n$i"; done
}

hosts() { # this machine's name, if nothing else knows it, and the nodes', by which processes of a job find each other
    local address names
    grep -qF "$MARK for $D" /etc/hosts && return
    names=$(seq -f n%g -s ' ' "$NODES")
    address=$(known "$HOST") || names="$HOST $names"
    echo "${address:-127.0.0.1} $names $MARK for $D" >>/etc/hosts
}

known() { getent ahostsv4 "$1" | awk 'NR == 1 {print $1} END {exit NR == 0}'; } # NAME: prints its address

fake_gpus() { # clones of /dev/null; where they cannot be made, a bare count that schedules the same
    local i
    for ((i = 0; i < GPUS; i++)); do [ -c "$D/gpu/$i" ] || mknod "$D/gpu/$i" c 1 3 2>/dev/null || true; done
    if [ "$GPUS" = 0 ]; then
        :
    elif [ -c "$D/gpu/$((GPUS - 1))" ]; then
        echo "Name=gpu File=$D/gpu/[0-$((GPUS - 1))]"
    else
        echo "Name=gpu Count=$GPUS"
    fi
}

slurm_conf() {
    cat <<CONF
$MARK
ClusterName=deltalab
SlurmctldHost=$HOST($ADDRESS)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job waits cred_expire + 1 s before it may start again (the default is 120 s, less than 5 is refused)
AuthInfo=socket=$SOCKET,cred_expire=8
SlurmctldPort=$PORT
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/slurmd.%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.%n.log
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
# no cgroups
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
# CPUs, memory and GPUs that the machine does not have
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=2,batch_sched_delay=0
MinJobAge=900
MaxArraySize=${SLURM_MAX_ARRAY:-1001}
# well under cred_expire: a requeued job that starts where its old step still dies drains the node ("Duplicate jobid")
KillWait=5
CompleteWait=0
# how long commands try to reach a controller that is away
MessageTimeout=5
# after this a node without slurmd is DOWN and its jobs are requeued
SlurmdTimeout=10
JobRequeue=1
RebootProgram=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PropagateResourceLimits=NONE
# the file changes while daemons read it
DebugFlags=NO_CONF_HASH
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$ADDRESS
# for munge this is no password but the socket
AccountingStoragePass=$SOCKET
AccountingStoragePort=$((PORT + 2))
AccountingStorageEnforce=limits,qos
AccountingStorageTRES=gres/gpu
CONF
    [ "$PREEMPT" = term ] || echo SlurmctldParameters=preempt_send_user_signal
    for ((i = 1; i <= NODES; i++)); do
        echo "NodeName=n$i NodeHostname=$HOST NodeAddr=$ADDRESS Port=$((PORT + 10 + i)) CPUs=$CPUS RealMemory=16000 Gres=gpu:$GPUS"
    done
    cat <<CONF
PartitionName=debug Nodes=n[1-$NODES] Default=YES DefaultTime=60 PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=n[1-$NODES] DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE
PartitionName=high Nodes=n[1-$NODES] DefaultTime=60 PriorityTier=100 PreemptMode=OFF
CONF
}

free() { # PORT PIDFILE: the port is this daemon's or nobody's
    alive "$2" || ! (exec 3<>"/dev/tcp/$ADDRESS/$1") 2>/dev/null ||
        die "port $1 is taken by another program; set SLURM_BASE_PORT"
}

start_munge() {
    [ -s "$D/munge/key" ] || (umask 077 && head -c 128 /dev/urandom >"$D/munge/key")
    alive "$D/munge/pid" || munged --force --key-file="$D/munge/key" --socket="$SOCKET" --pid-file="$D/munge/pid" \
        --seed-file="$D/munge/seed" --log-file="$D/log/munged.log"
    await 10 munged munge --no-input --socket="$SOCKET"
}

start_database() {
    alive "$D/run/mariadbd.pid" && return
    install -d -o mysql -g mysql "$D/mysql" "$D/run/mysql"
    [ -d "$D/mysql/mysql" ] || mariadb-install-db --no-defaults --user=mysql --datadir="$D/mysql" \
        --auth-root-authentication-method=socket --skip-test-db >"$D/log/mariadb-install.log" 2>&1
    setsid mariadbd --no-defaults --user=mysql --datadir="$D/mysql" --socket="$DATABASE" --skip-networking \
        --pid-file="$D/run/mysql/pid" --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0 \
        --innodb-lock-wait-timeout=900 --log-error="$D/log/mariadbd.log" </dev/null >/dev/null 2>&1 &
    echo $! >"$D/run/mariadbd.pid"
    await 30 mariadbd mariadb --no-defaults -S "$DATABASE" -e 'select 1'
    mariadb --no-defaults -S "$DATABASE" -e "create database if not exists accounting;
        create user if not exists slurm@localhost identified by 'slurm'; grant all on accounting.* to slurm@localhost"
}

start_accounting() {
    (umask 077 && cat >"$D/slurmdbd.conf") <<CONF
$MARK
AuthType=auth/munge
AuthInfo=socket=$SOCKET
DbdHost=$HOST
DbdAddr=$ADDRESS
DbdPort=$((PORT + 2))
SlurmUser=root
LogFile=$D/log/slurmdbd.log
PidFile=$D/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounting
CommunicationParameters=NoInAddrAny
CONF
    free $((PORT + 2)) "$D/run/slurmdbd.pid"
    alive "$D/run/slurmdbd.pid" || MYSQL_UNIX_PORT="$DATABASE" slurmdbd || die "slurmdbd: $(tail -n 1 "$D/log/slurmdbd.log")"
    await 30 slurmdbd timeout 5 sacctmgr -n -i list cluster
    sacctmgr -n list cluster format=cluster%20 | grep -qw deltalab || sacctmgr -Q -i add cluster deltalab
    sacctmgr -n list qos format=name%20 | grep -qw few ||
        sacctmgr -Q -i add qos few MaxSubmitJobsPerUser="$LIMIT"
    sacctmgr -n list account format=account%20 | grep -qw few || {
        sacctmgr -Q -i add account few
        sacctmgr -Q -i add user root account=few MaxSubmitJobs="$LIMIT"
        sacctmgr -Q -i modify user root set qos+=few
    }
}

start_cluster() { # RESTART: 1 where the configuration changed
    if alive "$D/run/slurmctld.pid" && [ "$1" = 1 ]; then
        local pid i # slurmctld reads some settings, MaxArraySize among them, only when it starts
        pid=$(cat "$D/run/slurmctld.pid")
        kill "$pid"
        for ((i = 0; i < 200; i++)); do alive "$D/run/slurmctld.pid" && sleep 0.1; done
    fi
    free "$PORT" "$D/run/slurmctld.pid"
    alive "$D/run/slurmctld.pid" || slurmctld || die "slurmctld: $(tail -n 1 "$D/log/slurmctld.log")"
    await 20 slurmctld sh -c 'scontrol ping | grep -q "is UP"'
    for ((i = 1; i <= NODES; i++)); do
        free $((PORT + 10 + i)) "$D/run/slurmd.n$i.pid"
        alive "$D/run/slurmd.n$i.pid" || slurmd -N "n$i" || die "slurmd n$i: $(tail -n 1 "$D/log/slurmd.n$i.log")"
    done
    [ "$1" = 0 ] || scontrol reconfigure
    ready || resume_nodes
    await 30 "$NODES nodes" ready
}

ready() { [ "$(sinfo -h -N -p debug -o '%N %t' | grep -cE ' (idle|mix|alloc|comp)$')" -ge "$NODES" ]; }

resume_nodes() {
    local node
    for node in $(sinfo -h -N -p debug -o '%N %T' | awk '$2 ~ /down|drain|fail/ {print $1}'); do
        scontrol update nodename="$node" state=resume 2>/dev/null || true
    done
}

[ "$(id -u)" = 0 ] || die "root is needed"
command -v apt-get >/dev/null || die "Debian or Ubuntu is needed"
case $PREEMPT in user | term) ;; *) die "SLURM_PREEMPT_SIGNAL=$PREEMPT: allowed is user or term" ;; esac
[ ! -e "$SLURM_CONF" ] || grep -qF "$MARK" "$SLURM_CONF" || die "$SLURM_CONF is another's; it is left as it is"
folders
packages
hosts
ADDRESS=$(known "$HOST") # daemons listen where their host's name leads
readonly ADDRESS
fake_gpus >"$D/gres.conf"
echo CgroupPlugin=cgroup/v1 >"$D/cgroup.conf" # nothing here uses it; looking for the kernel's kind fails in containers
slurm_conf >"$D/slurm.conf.new"
changed=1
cmp -s "$D/slurm.conf.new" "$SLURM_CONF" && changed=0
mv "$D/slurm.conf.new" "$SLURM_CONF"
start_munge
start_database
start_accounting
start_cluster $changed
echo "up: $(sinfo -h -p debug -o '%D nodes %t, %c CPUs, %G'); export SLURM_CONF=$SLURM_CONF"
