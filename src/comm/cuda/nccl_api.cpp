#include "nccl_api.hpp"

#include <cstdlib>

#include <dlfcn.h>

#include "llmft/base/error.hpp"

namespace llmft {
namespace {

constexpr int kOldest =
    NCCL_VERSION(2, 18, 0);  // the first with non-blocking communicators that can be trusted

NcclApi load() {
  // Sums in the switch (NVLS) need multicast objects, which not every machine grants; set to 1 by who wants
  // it.
  ::setenv("NCCL_NVLS_ENABLE", "0", 0);
  void* library = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  std::string reason = library == nullptr ? ::dlerror() : "";
  if (library == nullptr) library = ::dlopen(LLMFT_NCCL_LIBRARY, RTLD_NOW | RTLD_LOCAL);  // of the build
  if (library == nullptr)
    user_error(
        "--device cuda: several ranks need NCCL, and it was not found ({}); install libnccl2 of CUDA {}, or "
        "put "
        "the folder of libnccl.so.2 into LD_LIBRARY_PATH",
        reason, CUDART_VERSION / 1000);
  NcclApi api{};
#define LLMFT_NCCL_LOAD(name)                                                      \
  api.name = reinterpret_cast<decltype(api.name)>(::dlsym(library, "nccl" #name)); \
  if (api.name == nullptr)                                                         \
    user_error("--device cuda: libnccl.so.2 has no {}; install NCCL 2.18 or newer", "nccl" #name);
  LLMFT_NCCL_FUNCTIONS(LLMFT_NCCL_LOAD)
#undef LLMFT_NCCL_LOAD
  int version = 0;
  if (api.GetVersion(&version) != ncclSuccess || version < kOldest)
    user_error("--device cuda: NCCL {}.{} is too old; install 2.18 or newer", version / 10000,
               version / 100 % 100);
  return api;
}

}  // namespace

const NcclApi& nccl() {
  static const NcclApi api = load();
  return api;
}

}  // namespace llmft
