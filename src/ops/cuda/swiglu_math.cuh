// SwiGLU of one element, for every kernel that computes it: the operations and their order are spelled out,
// so that kernels agree bit for bit whatever the compiler would contract around them.
#pragma once

#include <type_traits>

namespace llmft::cuda {

// S: the dtype of the result, which says how exact it must be. For 16 bits the two units' own approximations
// (2^-22 relative) without what the intrinsics add for denormal numbers, a third of a SwiGLU's instructions:
// exp(-x) = 2^(-x log2 e) is then 0 above 87 and infinity, whose inverse is 0, below -88.
template <class S>
__device__ float sigmoid(float x) {
  if constexpr (std::is_same_v<S, float>) {
    return 1.0f / (1.0f + expf(-x));
  } else {
    float power, inverse;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(__fmul_rn(x, -1.4426950408889634f)));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(__fadd_rn(1.0f, power)));
    return inverse;
  }
}

template <class S>
__device__ float swiglu_of(float gate, float up) {
  return __fmul_rn(__fmul_rn(gate, sigmoid<S>(gate)), up);
}

struct SwigluGradient {
  float gate, up;
  float h;  // the value itself, rebuilt
};

// silu'(g) = s (1 + g (1 - s)), s = sigmoid(g).
template <class S>
__device__ SwigluGradient swiglu_gradient(float dh, float gate, float up) {
  float s = sigmoid<S>(gate), silu = __fmul_rn(gate, s);
  float slope = __fmul_rn(s, __fmaf_rn(gate, __fsub_rn(1.0f, s), 1.0f));
  return {__fmul_rn(__fmul_rn(dh, up), slope), __fmul_rn(dh, silu), __fmul_rn(silu, up)};
}

}  // namespace llmft::cuda
