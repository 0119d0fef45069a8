// The one place where a backend is chosen.
#pragma once

#include <filesystem>
#include <memory>
#include <utility>

#include "llmft/ops/decode_ops.hpp"
#include "llmft/ops/ops.hpp"

namespace llmft {

// What --device says; automatic: a GPU where there is one.
enum class DeviceChoice { automatic, cpu, cuda };
inline constexpr std::pair<const char*, DeviceChoice> kDeviceNames[] = {
    {"auto", DeviceChoice::automatic}, {"cpu", DeviceChoice::cpu}, {"cuda", DeviceChoice::cuda}};

// GPUs that this process can use, 0 without a driver or in a build without CUDA.
int cuda_device_count();
// UserError: no CUDA in this build, no such GPU, or one that is too old (compute capability below 9.0), with
// what to do.
std::unique_ptr<Device> make_cuda_device(int ordinal);
// Every kernel repeats bit for bit. fixed: and which kernels run is the same in every process, not what was
// fastest in this one.
enum class KernelChoice { measured, fixed };

// How matrix products choose among the library's algorithms for a shape. first: its ranking's first, the same
// in every process. timed: the fastest of the first `candidates`, measured when a shape is first met and kept
// in `file` (empty: for this process alone), which is keyed by GPU and library version.
struct GemmTuning {
  enum class Choice { first, timed };
  Choice choice = Choice::timed;
  int candidates = 8;
  std::filesystem::path file;
  // Products with SwiGLU by one kernel or by two, where one can do it. measured: whichever was faster when
  // first met, by 3 % at least, kept as the choices are. LLMFT_SWIGLU=measured|fused|pair in the environment
  // overrides it. Always two where the choice is fixed: the two round different sums.
  enum class Swiglu { measured, fused, pair };
  Swiglu swiglu = Swiglu::measured;
};

// llmft/gemm_choices below $XDG_CACHE_HOME, or ~/.cache; empty where there is neither.
std::filesystem::path gemm_choices_file();

// A fixed choice is of the first algorithms whatever `tuning` says: two processes may time differently.
std::unique_ptr<Ops> make_cuda_ops(Device& device, MatmulMode mode, KernelChoice kernels,
                                   const GemmTuning& tuning = {});

// For the device and beside the Ops of make_cuda_ops.
std::unique_ptr<DecodeOps> make_cuda_decode_ops(Device& device);

}  // namespace llmft
