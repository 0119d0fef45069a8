// The rows of dx that belong to one token are added to its row of the table one after another, in the order
// of the tokens: a stable sort brings them together, and one block owns a token's row.
#include <cub/device/device_radix_sort.cuh>

#include "vector.cuh"

namespace llmft::cuda {
namespace {

__global__ void count_up(int32_t* positions, int64_t tokens) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < tokens) positions[i] = static_cast<int32_t>(i);
}

// The end of the run of equal keys that starts at `first`.
__device__ int64_t end_of_run(const int32_t* __restrict__ keys, int64_t first, int64_t size) {
  int32_t key = keys[first];
  int64_t low = first + 1, high = size;
  while (low < high) {
    int64_t middle = (low + high) / 2;
    if (keys[middle] == key)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

template <class S, int N>
__global__ void add_runs(const int32_t* __restrict__ keys, const int32_t* __restrict__ positions,
                         const S* __restrict__ dx, int64_t dx_ld, float* __restrict__ dtable,
                         int64_t dtable_ld, int64_t vocabulary, int64_t width) {
  int64_t first = blockIdx.x, size = gridDim.x;
  int64_t token = checked(keys[first], vocabulary);
  if (first > 0 && keys[first - 1] == token) return;
  int64_t end = end_of_run(keys, first, size);
  for (int64_t c = first_item() * N; c < width; c += item_step() * N) {
    float total[N], values[N];
    load_floats<float, N>(dtable + token * dtable_ld + c, total);
#pragma unroll 4
    for (int64_t i = first; i < end; ++i) {
      load_floats<S, N>(dx + int64_t{positions[i]} * dx_ld + c, values);
#pragma unroll
      for (int k = 0; k < N; ++k) total[k] += values[k];
    }
    store_floats<float, N>(dtable + token * dtable_ld + c, total);
  }
}

int bits_for(int64_t vocabulary) {
  int bits = 1;
  while ((int64_t{1} << bits) < vocabulary) ++bits;
  return bits;
}

size_t index_bytes(int64_t tokens) {
  return (static_cast<size_t>(tokens) * sizeof(int32_t) + 255) / 256 * 256;
}

// temporary null: sets `bytes` to what the sort needs.
void sort(cudaStream_t stream, void* temporary, size_t& bytes, const int32_t* keys, int32_t* sorted_keys,
          const int32_t* values, int32_t* sorted_values, int64_t tokens, int64_t vocabulary) {
  cub::DeviceRadixSort::SortPairs(temporary, bytes, keys, sorted_keys, values, sorted_values,
                                  static_cast<int>(tokens), 0, bits_for(vocabulary), stream);
}

}  // namespace

size_t embed_backward_scratch(int64_t tokens, int64_t vocabulary) {
  size_t bytes = 0;
  sort(nullptr, nullptr, bytes, nullptr, nullptr, nullptr, nullptr, tokens, vocabulary);
  return 3 * index_bytes(tokens) + bytes;
}

void embed_backward(cudaStream_t stream, const int32_t* tokens, const Matrix& dx, const Matrix& dtable,
                    void* scratch, size_t scratch_bytes) {
  if (dx.rows == 0 || dx.cols == 0) return;
  size_t part = index_bytes(dx.rows), sort_bytes = scratch_bytes - 3 * part;
  auto* bytes = static_cast<char*>(scratch);
  auto* positions = reinterpret_cast<int32_t*>(bytes);
  auto* sorted_tokens = reinterpret_cast<int32_t*>(bytes + part);
  auto* sorted_positions = reinterpret_cast<int32_t*>(bytes + 2 * part);
  constexpr int threads = 256;
  auto blocks = static_cast<unsigned>((dx.rows + threads - 1) / threads);
  count_up<<<blocks, threads, 0, stream>>>(positions, dx.rows);
  sort(stream, bytes + 3 * part, sort_bytes, tokens, sorted_tokens, positions, sorted_positions, dx.rows,
       dtable.rows);
  with_type(dx.type, [&](auto type) {
    using S = typename decltype(type)::type;
    bool vectors = rows_on_16_bytes(dx) && rows_on_16_bytes(dtable) &&
                   dx.cols % static_cast<int64_t>(16 / sizeof(S)) == 0;
    with_width<S>(vectors, [&](auto n) {
      RowGrid grid = row_grid(dx.rows, dx.cols / n());
      add_runs<S, n()><<<grid.blocks, grid.threads, 0, stream>>>(
          sorted_tokens, sorted_positions, static_cast<const S*>(dx.data), dx.ld,
          static_cast<float*>(dtable.data), dtable.ld, dtable.rows, dx.cols);
    });
  });
}

}  // namespace llmft::cuda
