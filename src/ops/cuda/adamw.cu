// One pass: each element of p, m, v is read and written once, by one thread.
#include "vector.cuh"

namespace llmft::cuda {
namespace {

// Four elements of a copy in S: 16 bytes of f32, 8 of a 16-bit type.
template <class S, int N>
__device__ void store_copy(S* to, const float (&values)[N]) {
  if constexpr (N == 1) {
    *to = from_float<S>(values[0]);
  } else if constexpr (std::is_same_v<S, float>) {
    store_floats<S, N>(to, values);
  } else {
    *reinterpret_cast<uint2*>(to) = {pack_word<S>(values), pack_word<S>(values + 2)};
  }
}

template <class S, int N>
__global__ void adamw_kernel(AdamW s, const double* __restrict__ state, int64_t size, float* __restrict__ p,
                             float* __restrict__ m, float* __restrict__ v, const float* __restrict__ grad,
                             S* __restrict__ copy) {
  const UpdateState& update = *reinterpret_cast<const UpdateState*>(state);
  if (update.apply == 0) return;
  const auto grad_scale = static_cast<float>(update.grad_scale);
  const auto correction1 = static_cast<float>(update.correction1);
  const auto correction2 = static_cast<float>(update.correction2);
  for (int64_t i = first_item() * N; i < size; i += item_step() * N) {
    float weight[N], first[N], second[N], gradient[N];
    load_floats<float, N>(p + i, weight);
    load_floats<float, N>(m + i, first);
    load_floats<float, N>(v + i, second);
    load_floats<float, N>(grad + i, gradient);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float g = grad_scale * gradient[k];
      first[k] = s.beta1 * first[k] + (1.0f - s.beta1) * g;
      second[k] = s.beta2 * second[k] + (1.0f - s.beta2) * (g * g);
      float step = s.lr * (first[k] / correction1) / (sqrtf(second[k] / correction2) + s.eps);
      weight[k] = weight[k] * s.keep - step;
    }
    store_floats<float, N>(p + i, weight);
    store_floats<float, N>(m + i, first);
    store_floats<float, N>(v + i, second);
    if (copy != nullptr) store_copy<S, N>(copy + i, weight);
  }
}

template <class S, int N>
void launch(cudaStream_t stream, const AdamW& params, const double* state, int64_t begin, int64_t end,
            float* p, float* m, float* v, const float* grad, S* copy) {
  if (begin == end) return;
  RowGrid grid = row_grid(1, (end - begin) / N);
  adamw_kernel<S, N><<<grid.blocks, grid.threads, 0, stream>>>(params, state, end - begin, p + begin,
                                                               m + begin, v + begin, grad + begin,
                                                               copy == nullptr ? nullptr : copy + begin);
}

}  // namespace

void adamw(cudaStream_t stream, const AdamW& params, const double* state, int64_t size, float* p, float* m,
           float* v, const float* grad, const Matrix& copy) {
  with_type(copy.data == nullptr ? Scalar::f32 : copy.type, [&](auto type) {
    using S = typename decltype(type)::type;
    auto* to = static_cast<S*>(copy.data);
    bool aligned = on_16_bytes(p) && on_16_bytes(m) && on_16_bytes(v) && on_16_bytes(grad) && on_16_bytes(to);
    int64_t whole = aligned ? size / 4 * 4 : 0;
    launch<S, 4>(stream, params, state, 0, whole, p, m, v, grad, to);
    launch<S, 1>(stream, params, state, whole, size, p, m, v, grad, to);
  });
}

}  // namespace llmft::cuda
