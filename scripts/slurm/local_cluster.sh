#!/usr/bin/env bash
# Run a real Slurm on one host for the tests. It has two simulated nodes, n1 and n2, each with 16
# CPUs and 8 simulated GPUs.
#
#   local_cluster.sh start                       start it and print how to use it
#   local_cluster.sh status                      exit code 0 if it runs, 1 if not
#   local_cluster.sh stop                        cancel its jobs and leave no process behind
#   local_cluster.sh kill-node n1 [--with-jobs]  kill -9 the node's slurmd, and with --with-jobs its jobs
#   local_cluster.sh start-node n1               start that slurmd again
#   local_cluster.sh kill-controller             kill -9 slurmctld. Jobs continue
#   local_cluster.sh start-controller            start it again
#
# Partitions: ci (the default), low and high. Jobs of high evict those of low: an evicted job gets a
# signal, is killed after GraceTime, and is queued again.
# An array has at most 8 jobs. The quality of service `few` takes at most 4 jobs of a user.
# It needs root on Debian and installs missing packages. If it can't run here, it prints the reason
# in one line and exits with code 3.
# All its files are in $SLURM_ROOT (default: .slurm in this repository). It starts with empty queues
# unless it already runs. It does not use systemd or read /etc/slurm.
set -euo pipefail
umask 022

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
root=$(realpath -m "${SLURM_ROOT:-$repository/.slurm}")
marker=$root/.local-slurm
node_names=(n1 n2)
gpus=8
daemons=(munged mariadbd slurmdbd slurmctld slurmd-n1 slurmd-n2)
packages=(munge slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core)
munge_socket=$root/munge/socket
# Clusters with different roots can run side by side. Each has its own ten ports, below the range
# from which the kernel assigns ports.
port=$((20000 + $(cksum <<<"$root" | cut -d ' ' -f 1) % 1000 * 10))

# Slurm's commands must not see another cluster's variables.
unset "${!SLURM_@}"
export SLURM_CONF=$root/etc/slurm.conf

cannot() { echo "no local Slurm: $1" >&2; exit 3; }

# Requirements -------------------------------------------------------------------------------------

check_host() {
  [ "$(id -u)" = 0 ] || cannot "it needs root"
  command -v apt-get >/dev/null || cannot "it needs apt-get"
  grep -qx 'ID=debian' /etc/os-release 2>/dev/null || cannot "it needs Debian"
  # A unix socket's path has at most 107 characters, and spool/n1/n1_1234567.4294967291 is one.
  # slurm.conf has no quotes.
  [[ $root =~ ^[[:alnum:]/._-]{2,70}$ ]] || cannot "set SLURM_ROOT to a path of at most 70 plain characters instead of $root"
  [ -e "$marker" ] || [ -z "$(ls -A "$root" 2>/dev/null)" ] || cannot "SLURM_ROOT=$root holds other files. Set it to an empty folder"
}

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
  done
}

install_packages() (
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -gt 0 ] || exit 0
  echo "installing ${missing[*]}"
  # If this file exits with 101, packages do not start their daemons.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
  fi
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  { apt-get update && apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1 </dev/null || cannot "apt-get could not install ${missing[*]} (its output: $log)"
  rm -f "$log"
)

# Configuration ------------------------------------------------------------------------------------

make_folders() {
  mkdir -p "$root"
  touch "$marker"
  rm -rf "${root:?}"/{etc,munge,state,spool,log,gpu,db,pid}
  mkdir -p "$root"/{etc,munge,state,log,gpu,db,pid} "${node_names[@]/#/$root/spool/}"
  (umask 077 && head -c 128 /dev/urandom >"$root/munge/key")
  local i
  for ((i = 0; i < gpus; i++)); do
    # The same device as /dev/null. Slurm only checks that it is a character device.
    mknod "$root/gpu/$i" c 1 3 || cannot "it needs the right to make character devices"
  done
}

write_configuration() {
  local host i nodes=
  host=$(uname -n | cut -d . -f 1)
  for i in "${!node_names[@]}"; do
    nodes+="NodeName=${node_names[i]} NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2 + i)) "
    nodes+="CPUs=16 RealMemory=64000 Gres=gpu:$gpus"$'\n'
  done
  echo "Name=gpu File=$root/gpu/[0-$((gpus - 1))]" >"$root/etc/gres.conf"
  echo "CgroupAutomount=no" >"$root/etc/cgroup.conf"
  echo "export SLURM_CONF=$SLURM_CONF" >"$root/env.sh"
  cat >"$SLURM_CONF" <<END
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool/%n
SlurmctldPidFile=$root/pid/slurmctld
SlurmdPidFile=$root/pid/slurmd-%n
SlurmctldLogFile=$root/log/slurmctld
SlurmdLogFile=$root/log/slurmd-%n

# A requeued job waits until its credential expires, by default for two minutes.
AuthInfo=socket=$munge_socket,cred_expire=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 1))
# The munge socket of this cluster. Without it every command waits for the default one.
AccountingStoragePass=$munge_socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=limits,qos
MaxArraySize=8

# Two nodes on one host: resources are as written here, whatever the host has. Nothing is bound or
# limited.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
ReturnToService=2

# Schedule every second. A production cluster is slower.
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=5

# An evicted job gets the signal of its --signal option, or SIGTERM, and GraceTime seconds.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1

${nodes}PartitionName=ci Nodes=ALL Default=YES PriorityTier=1 PreemptMode=OFF
PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
END
  # slurmdbd refuses a file that others can read.
  (umask 077 && cat >"$root/etc/slurmdbd.conf") <<END
AuthInfo=socket=$munge_socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 1))
SlurmUser=root
PidFile=$root/pid/slurmdbd
LogFile=$root/log/slurmdbd
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
END
}

# Daemons ------------------------------------------------------------------------------------------

# Print the daemon's process id if it runs. The number in a file may be stale: its process may have
# ended, or belong to another program by now.
pid_of() {
  local pid
  pid=$(tr -dc 0-9 2>/dev/null <"$root/pid/$1") && [[ $(readlink "/proc/$pid/exe") == */"${1%%-*}"* ]] && echo "$pid"
}

running() { local name; for name in "${daemons[@]}"; do pid_of "$name" && return; done; return 1; }

# wait_for SECONDS COMMAND...: wait until the command succeeds, or fail after SECONDS.
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}

# launch NAME READY COMMAND...: start a daemon unless it runs, then wait until the command READY
# succeeds.
launch() {
  local name=$1 ready
  read -ra ready <<<"$2"
  shift 2
  if ! pid_of "$name" >/dev/null; then
    rm -f "$root/pid/$name"
    "$@" >>"$root/log/$name.out" 2>&1 </dev/null || give_up "$name"
  fi
  wait_for 60 "${ready[@]}" || give_up "$name"
}

give_up() {
  echo "error: $1 did not start. The last lines of its logs:" >&2
  tail -n 10 "$root/log/$1" "$root/log/$1.out" >&2 2>/dev/null || true
  exit 1
}

munge_answers() { munge -n -S "$munge_socket" | unmunge -S "$munge_socket"; }
database_answers() { [ -S "$root/db/socket" ]; }
accounting_answers() { timeout 5 sacctmgr -n show cluster; }
controller_answers() { timeout 5 scontrol ping 2>/dev/null | grep -q UP; }
# Ask the slurmd and the controller, which does not notice at once that a slurmd was killed.
node_answers() {
  SLURMD_NODENAME=$1 timeout 5 scontrol show slurmd &&
    timeout 5 sinfo -h -n "$1" -p ci -o %T | grep -qxE 'idle|mixed|allocated|completing'
}

# The controller drains a node on which it finds a job's number twice. This happens when a node
# starts within seconds of kill-node --with-jobs.
node_answers_undrained() {
  node_answers "$1" && return
  if [[ $(timeout 5 sinfo -h -n "$1" -p ci -o %T) == drain* ]]; then scontrol update "nodename=$1" state=resume; fi
  return 1
}

start_database() {
  local options=(--no-defaults --user=root --datadir="$root/db/data")
  [ -d "$root/db/data/mysql" ] || mariadb-install-db "${options[@]}" --skip-test-db --auth-root-authentication-method=normal
  # slurmdbd needs long lock waits. Commits are not synced, since this data may be lost.
  setsid mariadbd "${options[@]}" --socket="$root/db/socket" --pid-file="$root/pid/mariadbd" --skip-networking \
    --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 --innodb-use-native-aio=0 &
}

make_accounts() {
  sacctmgr -i add cluster local
  sacctmgr -i add qos few set MaxSubmitJobsPerUser=4
  sacctmgr -i modify user root set qos+=few
} >/dev/null

start_controller() { launch slurmctld controller_answers slurmctld; }

start_node() { launch "slurmd-$1" "node_answers_undrained $1" slurmd -N "$1"; }

start() {
  check_host
  install_packages
  trap 'stop >/dev/null' EXIT
  running >/dev/null || { kill_jobs; make_folders; write_configuration; }
  # --force accepts any owner of the parent folders, such as that of a checkout mounted in a container.
  launch munged munge_answers munged --force --socket="$munge_socket" --key-file="$root/munge/key" --pid-file="$root/pid/munged" \
    --seed-file="$root/munge/seed" --log-file="$root/log/munged"
  launch mariadbd database_answers start_database
  launch slurmdbd accounting_answers env MYSQL_UNIX_PORT="$root/db/socket" slurmdbd
  sacctmgr -n show cluster format=cluster | grep -qw local || make_accounts
  start_controller
  local node
  for node in "${node_names[@]}"; do start_node "$node"; done
  trap - EXIT
  status
}

status() {
  if ! controller_answers; then echo "no Slurm runs in $root"; return 1; fi
  sinfo -o '%9P %9a %.5D %9T %.4c %G %N'
  echo "to use it: . $root/env.sh"
}

# Stopping -----------------------------------------------------------------------------------------

# Print the process ids of this cluster's jobs, or of one node's. Slurm sets variables in each of
# their processes, which identify them.
job_processes() {
  { grep -lzxF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ | xargs -r grep -lz '^SLURM_JOB_ID=' |
    xargs -r grep -lzx "SLURMD_NODENAME=${1:-.*}"; } 2>/dev/null | cut -d / -f 3 || true
}

# Print the process ids of the slurmstepd that hold a node's jobs, or all jobs. They have the log
# file of the node's slurmd open.
step_daemons() {
  local pid
  for pid in $(pgrep -x slurmstepd); do
    [ -z "$(find "/proc/$pid/fd" -lname "$root/log/slurmd-${1:-*}" -print -quit 2>/dev/null)" ] || echo "$pid"
  done
}

# Kill the holders of jobs before the jobs, so that no end of a job is reported. A node that loses
# power reports none either.
kill_jobs() {
  { step_daemons "${1:-}"; job_processes "${1:-}"; } | xargs -r kill -KILL 2>/dev/null || true
}

kill_node() {
  local pid
  pid=$(pid_of "slurmd-$1") && kill -KILL "$pid"
  wait_for 10 not_running "slurmd-$1"
  [ "${2:-}" = --with-jobs ] || return 0
  kill_jobs "$1"
  # The controller does this itself after a node has been silent for SlurmdTimeout (5 minutes).
  scontrol update "nodename=$1" state=down reason=kill-node
}

kill_controller() {
  local pid
  pid=$(pid_of slurmctld) && kill -KILL "$pid"
  wait_for 10 not_running slurmctld
}

not_running() { ! pid_of "$1" >/dev/null; }

no_jobs() { [ -z "$(timeout 5 squeue -h 2>&1)" ]; }

stop() {
  [ -e "$marker" ] || return 0
  if pid_of slurmctld >/dev/null; then
    timeout 10 scancel --full --user root 2>/dev/null || true
    wait_for 5 no_jobs || true
  fi
  kill_jobs
  local i pid
  for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
    pid=$(pid_of "${daemons[i]}") || continue
    kill -TERM "$pid"
    wait_for 20 not_running "${daemons[i]}" || kill -KILL "$pid"
  done
  kill_jobs
  echo "no Slurm runs in $root"
}

check_node() {
  [[ " ${node_names[*]} " == *" ${1:-} "* ]] || { echo "error: the nodes are ${node_names[*]}" >&2; exit 2; }
  controller_answers || { echo "error: no Slurm runs in $root" >&2; exit 1; }
}

case "${1:-}" in
  start | status | stop) "$1" ;;
  kill-node) check_node "${2:-}"; kill_node "$2" "${3:-}" ;;
  start-node) check_node "${2:-}"; start_node "$2" ;;
  kill-controller) kill_controller ;;
  start-controller) start_controller ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
