// One pass: each element of p, m, v is read and written once, by one thread.
#include "vector.cuh"

namespace llmft::cuda {
namespace {

template <int N>
__global__ void adamw_kernel(AdamW s, int64_t size, float* __restrict__ p, float* __restrict__ m,
                             float* __restrict__ v, const float* __restrict__ grad) {
  for (int64_t i = first_item() * N; i < size; i += item_step() * N) {
    float weight[N], first[N], second[N], gradient[N];
    load_floats<float, N>(p + i, weight);
    load_floats<float, N>(m + i, first);
    load_floats<float, N>(v + i, second);
    load_floats<float, N>(grad + i, gradient);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float g = s.grad_scale * gradient[k];
      first[k] = s.beta1 * first[k] + (1.0f - s.beta1) * g;
      second[k] = s.beta2 * second[k] + (1.0f - s.beta2) * (g * g);
      float step = s.lr * (first[k] / s.correction1) / (sqrtf(second[k] / s.correction2) + s.eps);
      weight[k] = weight[k] * s.keep - step;
    }
    store_floats<float, N>(p + i, weight);
    store_floats<float, N>(m + i, first);
    store_floats<float, N>(v + i, second);
  }
}

template <int N>
void launch(cudaStream_t stream, const AdamW& params, int64_t size, float* p, float* m, float* v,
            const float* grad) {
  if (size == 0) return;
  RowGrid grid = row_grid(1, size / N);
  adamw_kernel<N><<<grid.blocks, grid.threads, 0, stream>>>(params, size, p, m, v, grad);
}

}  // namespace

void adamw(cudaStream_t stream, const AdamW& params, int64_t size, float* p, float* m, float* v,
           const float* grad) {
  bool aligned = on_16_bytes(p) && on_16_bytes(m) && on_16_bytes(v) && on_16_bytes(grad);
  int64_t whole = aligned ? size / 4 * 4 : 0;
  launch<4>(stream, params, whole, p, m, v, grad);
  launch<1>(stream, params, size - whole, p + whole, m + whole, v + whole, grad + whole);
}

}  // namespace llmft::cuda
