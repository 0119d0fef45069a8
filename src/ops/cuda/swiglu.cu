// gate and up lie in one row, [gate | up]; the backward overwrites both after having read them.
#include "swiglu_math.cuh"
#include "vector.cuh"

namespace llmft::cuda {
namespace {

template <class S, int N>
__global__ void swiglu_kernel(const S* __restrict__ gate_up, int64_t gate_up_ld, S* __restrict__ h,
                              int64_t h_ld, int64_t width) {
  const S* gate_row = gate_up + blockIdx.x * gate_up_ld;
  h += blockIdx.x * h_ld;
  for (int64_t c = first_item() * N; c < width; c += item_step() * N) {
    float gate[N], up[N];
    load_floats<S, N>(gate_row + c, gate);
    load_floats<S, N>(gate_row + width + c, up);
#pragma unroll
    for (int i = 0; i < N; ++i) gate[i] = swiglu_of<S>(gate[i], up[i]);
    store_floats<S, N>(h + c, gate);
  }
}

template <class S, int N>
__global__ void swiglu_backward_kernel(const S* __restrict__ dh, int64_t dh_ld, S* __restrict__ gate_up,
                                       int64_t gate_up_ld, S* __restrict__ h, int64_t h_ld, int64_t width) {
  dh += blockIdx.x * dh_ld;
  S* gate_row = gate_up + blockIdx.x * gate_up_ld;
  for (int64_t c = first_item() * N; c < width; c += item_step() * N) {
    float d[N], gate[N], up[N], out[N];
    load_floats<S, N>(dh + c, d);
    load_floats<S, N>(gate_row + c, gate);
    load_floats<S, N>(gate_row + width + c, up);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      SwigluGradient gradient = swiglu_gradient<S>(d[i], gate[i], up[i]);
      out[i] = gradient.h;
      gate[i] = gradient.gate;
      up[i] = gradient.up;
    }
    store_floats<S, N>(gate_row + c, gate);
    store_floats<S, N>(gate_row + width + c, up);
    if (h != nullptr) store_floats<S, N>(h + blockIdx.x * h_ld + c, out);
  }
}

bool whole_vectors(const Matrix& gate_up, const Matrix& other, int64_t per_vector) {
  return rows_on_16_bytes(gate_up) && rows_on_16_bytes(other) && other.cols % per_vector == 0;
}

}  // namespace

void swiglu(cudaStream_t stream, const Matrix& gate_up, const Matrix& h) {
  if (h.rows == 0 || h.cols == 0) return;
  with_type(h.type, [&](auto type) {
    using S = typename decltype(type)::type;
    with_width<S>(whole_vectors(gate_up, h, 16 / sizeof(S)), [&](auto n) {
      RowGrid grid = row_grid(h.rows, h.cols / n());
      swiglu_kernel<S, n()><<<grid.blocks, grid.threads, 0, stream>>>(
          static_cast<const S*>(gate_up.data), gate_up.ld, static_cast<S*>(h.data), h.ld, h.cols);
    });
  });
}

void swiglu_backward(cudaStream_t stream, const Matrix& dh, const Matrix& gate_up, const Matrix& h) {
  if (dh.rows == 0 || dh.cols == 0) return;
  with_type(dh.type, [&](auto type) {
    using S = typename decltype(type)::type;
    bool vectors = whole_vectors(gate_up, dh, 16 / sizeof(S)) && (h.data == nullptr || rows_on_16_bytes(h));
    with_width<S>(vectors, [&](auto n) {
      RowGrid grid = row_grid(dh.rows, dh.cols / n());
      swiglu_backward_kernel<S, n()><<<grid.blocks, grid.threads, 0, stream>>>(
          static_cast<const S*>(dh.data), dh.ld, static_cast<S*>(gate_up.data), gate_up.ld,
          static_cast<S*>(h.data), h.ld, dh.cols);
    });
  });
}

}  // namespace llmft::cuda
