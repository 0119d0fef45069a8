#include "llmft/tokenizer/simd.hpp"

#include <cstdlib>
#include <string>

#include "llmft/base/error.hpp"

namespace llmft {

std::string_view name_of(SimdTier tier) {
  switch (tier) {
    case SimdTier::portable:
      return "portable";
    case SimdTier::sse2:
      return "sse2";
    case SimdTier::avx2:
      return "avx2";
    case SimdTier::avx512:
      return "avx512";
  }
  return "?";
}

std::vector<SimdTier> available_simd_tiers() {
  std::vector<SimdTier> tiers{SimdTier::portable};
#if defined(__x86_64__)
  tiers.push_back(SimdTier::sse2);
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2"))
    return tiers;
  tiers.push_back(SimdTier::avx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vbmi2"))
    tiers.push_back(SimdTier::avx512);
#endif
  return tiers;
}

SimdTier simd_tier() {
  const std::vector<SimdTier> tiers = available_simd_tiers();
  const char* wanted = std::getenv("LLMFT_SIMD");
  if (wanted == nullptr || *wanted == '\0') return tiers.back();
  std::string names;
  for (SimdTier tier : tiers) {
    if (name_of(tier) == wanted) return tier;
    names += (names.empty() ? "" : ", ") + std::string(name_of(tier));
  }
  user_error("LLMFT_SIMD={}: not a tier that this machine can run (it can run {}); unset it", wanted, names);
}

}  // namespace llmft
