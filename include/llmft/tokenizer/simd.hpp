// Which instructions the tokenizer's inner loops use. Chosen at run time: a program that was built on one
// machine runs on an older one. Every tier gives the same results.
#pragma once

#include <string_view>
#include <vector>

namespace llmft {

// portable: plain C++. sse2: what every x86-64 has. avx2: with BMI1 and BMI2 (Haswell, Zen). avx512: F, BW,
// DQ, VL and VBMI2 (Ice Lake, Zen 4).
enum class SimdTier { portable, sse2, avx2, avx512 };

std::string_view name_of(SimdTier tier);
// From portable up to the best that this machine can run.
std::vector<SimdTier> available_simd_tiers();
// The best, or what the environment variable LLMFT_SIMD names. Throws UserError for a name that is none of
// these, or that this machine cannot run.
SimdTier simd_tier();

}  // namespace llmft
