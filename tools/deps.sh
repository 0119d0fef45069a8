#!/usr/bin/env bash
# Installs what llmft needs to build, test and plot: packages of Debian 12 or Ubuntu 24.04, and a Python virtual
# environment in .venv with what requirements.txt pins. Does nothing, and needs no network, when all is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(
  build-essential cmake ninja-build ccache pkg-config git python3 python3-venv ca-certificates
  libopenmpi-dev openmpi-bin libhdf5-dev libsentencepiece-dev libyaml-cpp-dev libfmt-dev nlohmann-json3-dev
  libopenblas-dev libxxhash-dev rapidjson-dev zlib1g-dev libzstd-dev libpcre2-dev libboost-dev
  doctest-dev libbenchmark-dev clang-format clang-tidy shellcheck
  slurmctld slurmd slurm-client munge libpmix2
)

have() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q '^install ok installed'; }

if command -v dpkg-query >/dev/null; then
  missing=()
  for p in "${packages[@]}"; do have "$p" || missing+=("$p"); done
  if [ "${#missing[@]}" -gt 0 ]; then
    sudo=()
    if [ "$(id -u)" != 0 ]; then
      command -v sudo >/dev/null || { echo "deps: no root and no sudo; ask your administrator for: ${missing[*]} (or see README, 'A cluster without root')" >&2; exit 2; }
      sudo=(sudo)
    fi
    echo "deps: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
else
  echo "deps: no dpkg here; taking the libraries as given (README, 'A cluster without root')" >&2
fi

stamp=.venv/.requirements
want=$(sha256sum requirements.txt | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
  echo "deps: Python packages into .venv"
  python3 -m venv .venv
  grep -v '# no-deps' requirements.txt >.venv/with-deps.txt
  .venv/bin/python -m pip install -q --disable-pip-version-check -r .venv/with-deps.txt
  sed -n 's/ *# no-deps.*//p' requirements.txt >.venv/no-deps.txt
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps -r .venv/no-deps.txt
  echo "$want" >"$stamp"
fi
echo "deps: all there"
