#!/usr/bin/env bash
# On the head: a Prometheus that scrapes every node of the cluster, on 127.0.0.1:9090 (`ray dashboard --port` or SSH reach it).
# Ray keeps the list of nodes in /tmp/ray; without Prometheus on the machine this says so and the cluster runs without.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if ! command -v prometheus >/dev/null; then
    echo "no prometheus on this machine: nodes serve their metrics on port 8080, nobody collects them"
    exit 0
fi
pid_file=/tmp/ray/prometheus.pid
if [ -f "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null; then
    exit 0
fi
setsid nohup prometheus --config.file="$here/prometheus.yml" --storage.tsdb.path="$HOME/prometheus" \
    --storage.tsdb.retention.time=15d --web.listen-address=127.0.0.1:9090 >/tmp/ray/prometheus.log 2>&1 </dev/null &
echo $! >"$pid_file"
