// Attention of single rows through the cache. A block takes one row, up to kGroup query heads of one
// key-value head (so that keys and values are read once for them) and a part of the sequence; a group of
// lanes takes a key at a time, each lane 16 bytes of it. What the groups found is put together in shared
// memory, and what the parts found by whichever block of a row comes last, always in the same order.
#include "decode_kernels.hpp"
#include "vector.cuh"

namespace llmft::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kGroup = 4;        // query heads of a block
constexpr int kKeys = 4;         // keys that a group of lanes has under way
constexpr float kNone = -1e30f;  // a maximum over nothing: finite, so that differences are numbers

template <class S>
__global__ void rope_append_kernel(DecodeRows rows, const float* __restrict__ table, S* __restrict__ qkv,
                                   int64_t qkv_ld, DecodeCache cache) {
  int64_t t = blockIdx.x;
  int slot = rows.slots[t];
  if (slot < 0) return;
  int position = rows.positions[t];
  int dim = cache.head_dim, half = dim / 2;
  checked(position, cache.context);
  const float* cosines = table + int64_t{position} * dim;
  S* row = qkv + t * qkv_ld;
  auto cached = [&](void* base, int head) {
    return static_cast<S*>(base) + ((int64_t{slot} * cache.kv_heads + head) * cache.context + position) * dim;
  };
  int rotated = (cache.heads + cache.kv_heads) * half;
  for (int item = threadIdx.x; item < rotated; item += blockDim.x) {
    int head = item / half, i = item % half;
    S* low = row + head * dim + i;
    S* high = low + half;
    float a = to_float(*low), b = to_float(*high), c = cosines[i], s = cosines[half + i];
    S new_low = from_float<S>(a * c - b * s), new_high = from_float<S>(b * c + a * s);
    *low = new_low;
    *high = new_high;
    if (head >= cache.heads) {
      S* k = cached(cache.k, head - cache.heads);
      k[i] = new_low;
      k[half + i] = new_high;
    }
  }
  const S* values = row + (cache.heads + cache.kv_heads) * dim;
  for (int item = threadIdx.x; item < cache.kv_heads * dim; item += blockDim.x)
    cached(cache.v, item / dim)[item % dim] = values[item];
}

struct AttendArguments {
  DecodeRows rows;
  DecodeCache cache;
  const void* q;
  int64_t q_ld;
  void* out;
  int64_t out_ld;
  int64_t part;  // keys of a split
  float scale;
  float* scratch;      // [row][head][split][head_dim + 2]: sums, maximum, total
  uint32_t* counters;  // [row][group of heads]
};

template <class S, int kLanes>
__global__ void __launch_bounds__(kThreads) attend_kernel(AttendArguments a) {
  constexpr int N = static_cast<int>(16 / sizeof(S));
  constexpr int kParts = kThreads / kLanes;  // groups of lanes in the block
  const DecodeCache& cache = a.cache;
  int dim = cache.head_dim, group = cache.heads / cache.kv_heads;
  int groups_each = (group + kGroup - 1) / kGroup;
  int64_t t = blockIdx.z;
  int split = static_cast<int>(blockIdx.x), splits = static_cast<int>(gridDim.x);
  int kv_head = static_cast<int>(blockIdx.y) / groups_each;
  int first_in_group = static_cast<int>(blockIdx.y) % groups_each * kGroup;
  int first_head = kv_head * group + first_in_group;
  int heads = min(kGroup, group - first_in_group);
  int slot = a.rows.slots[t];
  if (slot < 0) return;  // all blocks of the row alike
  int64_t keys = int64_t{a.rows.positions[t]} + 1;
  int64_t begin = split * a.part, end = min(keys, begin + a.part);

  int lane = static_cast<int>(threadIdx.x) % kLanes, part = static_cast<int>(threadIdx.x) / kLanes;
  int column = lane * N;
  bool holds = column < dim;
  float q[kGroup][N], sum[kGroup][N], top[kGroup], total[kGroup];
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
    top[g] = kNone;
    total[g] = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) q[g][i] = sum[g][i] = 0;
    if (holds && g < heads) {
      load_floats<S, N>(static_cast<const S*>(a.q) + t * a.q_ld + (first_head + g) * dim + column, q[g]);
#pragma unroll
      for (int i = 0; i < N; ++i) q[g][i] *= a.scale;
    }
  }
  int64_t base = (int64_t{slot} * cache.kv_heads + kv_head) * cache.context;
  const S* all_k = static_cast<const S*>(cache.k) + base * dim + column;
  const S* all_v = static_cast<const S*>(cache.v) + base * dim + column;

  for (int64_t first = begin + part; first < end; first += kParts * kKeys) {
    Pack<S, N> k[kKeys], v[kKeys];
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      int64_t key = first + j * kParts;
      if (key < end && holds) {
        k[j] = Pack<S, N>::load(all_k + key * dim);
        v[j] = Pack<S, N>::load(all_v + key * dim);
      }
    }
    float score[kGroup][kKeys];
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      float values[N];
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] = 0;
      bool there = first + j * kParts < end;
      if (there && holds) k[j].unpack(values);
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        float s = 0;
#pragma unroll
        for (int i = 0; i < N; ++i) s += q[g][i] * values[i];
        score[g][j] = s;
      }
    }
    // lanes of one group of lanes are all here: `first` is the same for them
    uint32_t together = kLanes == kWarp
                            ? 0xffffffffu
                            : ((1u << (kLanes % kWarp)) - 1u) << (threadIdx.x % kWarp / kLanes * kLanes);
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      float new_top = top[g];
#pragma unroll
      for (int j = 0; j < kKeys; ++j) {
        float s = score[g][j];
#pragma unroll
        for (int step = kLanes / 2; step > 0; step /= 2) s += __shfl_xor_sync(together, s, step);
        score[g][j] = first + j * kParts < end ? s : kNone;
        new_top = fmaxf(new_top, score[g][j]);
      }
      float shrink = exp_for<S>(top[g] - new_top);
      top[g] = new_top;
      total[g] *= shrink;
#pragma unroll
      for (int i = 0; i < N; ++i) sum[g][i] *= shrink;
#pragma unroll
      for (int j = 0; j < kKeys; ++j) {
        score[g][j] = first + j * kParts < end ? exp_for<S>(score[g][j] - new_top) : 0.0f;
        total[g] += score[g][j];
      }
    }
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      if (first + j * kParts >= end || !holds) continue;
      float values[N];
      v[j].unpack(values);
#pragma unroll
      for (int g = 0; g < kGroup; ++g)
#pragma unroll
        for (int i = 0; i < N; ++i) sum[g][i] += score[g][j] * values[i];
    }
  }

  __shared__ float all_top[kParts][kGroup], all_total[kParts][kGroup];
  __shared__ float all_sum[kParts][kGroup][kLanes * N];
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
    if (lane == 0) {
      all_top[part][g] = top[g];
      all_total[part][g] = total[g];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) all_sum[part][g][column + i] = sum[g][i];
  }
  __syncthreads();

  // a thread an output element from here on
  int64_t stride = dim + 2;
  auto scratch_of = [&](int head, int s) {
    return a.scratch + ((t * cache.heads + head) * splits + s) * stride;
  };
  for (int item = threadIdx.x; item < heads * dim; item += kThreads) {
    int g = item / dim, c = item % dim;
    float best = all_top[0][g], value = 0, weight = 0;
    for (int p = 1; p < kParts; ++p) best = fmaxf(best, all_top[p][g]);
    for (int p = 0; p < kParts; ++p) {
      float factor = exp_for<S>(all_top[p][g] - best);
      value += factor * all_sum[p][g][c];
      weight += factor * all_total[p][g];
    }
    if (splits == 1) {
      static_cast<S*>(a.out)[t * a.out_ld + (first_head + g) * dim + c] = from_float<S>(value / weight);
    } else {
      float* to = scratch_of(first_head + g, split);
      to[c] = value;
      if (c == 0) {
        to[dim] = best;
        to[dim + 1] = weight;
      }
    }
  }
  if (splits == 1) return;

  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* counter = a.counters + t * gridDim.y + blockIdx.y;
    uint32_t arrived = atomicAdd(counter, 1u);
    is_last = arrived + 1 == static_cast<uint32_t>(splits);
    if (is_last) *counter = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int item = threadIdx.x; item < heads * dim; item += kThreads) {
    int g = item / dim, c = item % dim;
    float best = kNone, value = 0, weight = 0;
    for (int s = 0; s < splits; ++s) best = fmaxf(best, __ldcg(scratch_of(first_head + g, s) + dim));
    for (int s = 0; s < splits; ++s) {
      const float* from = scratch_of(first_head + g, s);
      float factor = exp_for<S>(__ldcg(from + dim) - best);
      value += factor * __ldcg(from + c);
      weight += factor * __ldcg(from + dim + 1);
    }
    static_cast<S*>(a.out)[t * a.out_ld + (first_head + g) * dim + c] = from_float<S>(value / weight);
  }
}

template <class S>
__global__ void gate_rows_kernel(S* x, int64_t ld, int64_t cols, const int32_t* wanted) {
  int64_t t = blockIdx.x;
  if (wanted[t] != 0) return;
  for (int64_t c = threadIdx.x; c < cols; c += blockDim.x) x[t * ld + c] = from_float<S>(0.0f);
}

int64_t blocks_of_heads(const DecodeCache& cache) {
  int group = cache.heads / cache.kv_heads;
  return int64_t{cache.kv_heads} * ((group + kGroup - 1) / kGroup);
}

}  // namespace

void rope_append(cudaStream_t stream, const DecodeRows& rows, const Matrix& table, const Matrix& qkv,
                 const DecodeCache& cache) {
  if (rows.count == 0) return;
  with_type(qkv.type, [&](auto type) {
    using S = typename decltype(type)::type;
    rope_append_kernel<S><<<static_cast<unsigned>(rows.count), 256, 0, stream>>>(
        rows, static_cast<const float*>(table.data), static_cast<S*>(qkv.data), qkv.ld, cache);
  });
}

int attend_splits(const DecodeCache& cache, int64_t rows, int64_t longest, int multiprocessors) {
  constexpr int64_t fewest_keys = 64;  // of a part
  int64_t blocks = rows * blocks_of_heads(cache);
  int64_t wanted = (2 * int64_t{multiprocessors} + blocks - 1) / blocks;
  int64_t most = (longest + fewest_keys - 1) / fewest_keys;
  return static_cast<int>(wanted < most ? wanted : most);
}

size_t attend_scratch_floats(const DecodeCache& cache, int64_t rows, int splits) {
  if (splits == 1) return 0;
  return static_cast<size_t>(rows * cache.heads * splits * (cache.head_dim + 2));
}

size_t attend_counters(const DecodeCache& cache, int64_t rows) {
  return static_cast<size_t>(rows * blocks_of_heads(cache));
}

void attend(cudaStream_t stream, const DecodeRows& rows, const DecodeCache& cache, const Matrix& q,
            const Matrix& out, int64_t longest, int splits, float* scratch, uint32_t* counters) {
  if (rows.count == 0) return;
  AttendArguments a{rows,
                    cache,
                    q.data,
                    q.ld,
                    out.data,
                    out.ld,
                    (longest + splits - 1) / splits,
                    1.0f / sqrtf(static_cast<float>(cache.head_dim)),
                    scratch,
                    counters};
  constexpr int64_t most_rows = 32768;  // of a grid's z
  for (int64_t first = 0; first < rows.count; first += most_rows) {
    int64_t count = rows.count - first < most_rows ? rows.count - first : most_rows;
    with_type(q.type, [&](auto type) {
      using S = typename decltype(type)::type;
      AttendArguments part = a;
      part.rows = {rows.slots + first, rows.positions + first, count};
      part.q = static_cast<const S*>(q.data) + first * q.ld;
      part.out = static_cast<S*>(out.data) + first * out.ld;
      dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(blocks_of_heads(cache)),
                static_cast<unsigned>(count));
      int lanes = cache.head_dim * static_cast<int>(sizeof(S)) / 16;
      if (lanes <= 4)
        attend_kernel<S, 4><<<grid, kThreads, 0, stream>>>(part);
      else if (lanes <= 8)
        attend_kernel<S, 8><<<grid, kThreads, 0, stream>>>(part);
      else if (lanes <= 16)
        attend_kernel<S, 16><<<grid, kThreads, 0, stream>>>(part);
      else
        attend_kernel<S, 32><<<grid, kThreads, 0, stream>>>(part);
    });
  }
}

void gate_rows(cudaStream_t stream, const Matrix& x, const int32_t* wanted) {
  if (x.rows == 0 || x.cols == 0) return;
  with_type(x.type, [&](auto type) {
    using S = typename decltype(type)::type;
    gate_rows_kernel<S>
        <<<static_cast<unsigned>(x.rows), 64, 0, stream>>>(static_cast<S*>(x.data), x.ld, x.cols, wanted);
  });
}

}  // namespace llmft::cuda
