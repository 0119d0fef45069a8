// The next token of each row, a block a row. Probability is counted in integers (units of 2^-40 of the
// likeliest token), so no order of additions changes what is drawn. Cuts are found without sorting: a token's
// rank is its distance from the likeliest in fixed point (2^-28 nats, below 32), and three rounds of
// histograms of 2048 bins find the rank at which enough tokens, or enough probability, have been passed.
#include "decode_kernels.hpp"
#include "vector.cuh"

namespace llmft::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBinBits = 11;
constexpr int kBins = 1 << kBinBits;
constexpr float kFarthest = 32;  // nats: what lies farther has no mass
constexpr uint64_t kFarthestRank = uint64_t{1} << (5 + 28);
using Mass = unsigned long long;

struct Shared {
  uint32_t low[kBins];  // of each bin's sum
  uint32_t high[kBins];
  Mass warp_mass[kWarps];
  float warp_value[kWarps];
  int warp_token[kWarps];
  Mass passed, chosen_bin;
  float top;
  int token;
};

struct Row {
  const float* logits;
  int vocabulary;
  const uint32_t* seen;  // null: no penalty
  float penalty;
  float inverse;  // 1 / temperature

  __device__ float logit(int i) const {
    float x = logits[i];
    if (seen != nullptr && (seen[i / 32] >> (i % 32) & 1u) != 0) x = x > 0 ? x / penalty : x * penalty;
    return x;
  }
};

__device__ uint64_t rank_of(float distance) {
  return distance < kFarthest ? static_cast<uint64_t>(distance * 268435456.0f) : kFarthestRank;
}
__device__ Mass mass_of(float distance) {
  return static_cast<Mass>(expf(-distance) * 1099511627776.0f);
}

__device__ void add(Shared& shared, int bin, Mass value) {
  auto low = static_cast<uint32_t>(value), high = static_cast<uint32_t>(value >> 32);
  uint32_t before = atomicAdd(&shared.low[bin], low);
  if (before + low < before) ++high;
  if (high != 0) atomicAdd(&shared.high[bin], high);
}

// Every thread gets the sum.
__device__ Mass block_sum(Shared& shared, Mass value) {
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared.warp_mass[threadIdx.x / kWarp] = value;
  __syncthreads();
  Mass total = 0;
  for (int w = 0; w < kWarps; ++w) total += shared.warp_mass[w];
  return total;
}

// The largest logit, the first where several are; every thread gets both.
__device__ int find_top(Shared& shared, const Row& row, float& top) {
  float best = -INFINITY;
  int token = row.vocabulary;
  for (int i = static_cast<int>(threadIdx.x); i < row.vocabulary; i += kThreads) {
    float x = row.logit(i);
    if (x > best || (x == best && i < token)) {
      best = x;
      token = i;
    }
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    float other = __shfl_xor_sync(0xffffffffu, best, step);
    int other_token = __shfl_xor_sync(0xffffffffu, token, step);
    if (other > best || (other == best && other_token < token)) {
      best = other;
      token = other_token;
    }
  }
  if (threadIdx.x % kWarp == 0) {
    shared.warp_value[threadIdx.x / kWarp] = best;
    shared.warp_token[threadIdx.x / kWarp] = token;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kWarps; ++w)
      if (shared.warp_value[w] > best || (shared.warp_value[w] == best && shared.warp_token[w] < token)) {
        best = shared.warp_value[w];
        token = shared.warp_token[w];
      }
    shared.top = best;
    shared.token = token < row.vocabulary ? token : 0;  // nothing but NaN
  }
  __syncthreads();
  top = shared.top;
  return shared.token;
}

enum class Counted { tokens, mass };

// The smallest rank such that what is counted up to it, among tokens of rank <= limit, reaches `wanted` (> 0,
// at most all of it).
__device__ uint64_t find_rank(Shared& shared, const Row& row, float top, uint64_t limit, Counted counted,
                              Mass wanted) {
  uint64_t prefix = 0;
  for (int round = 2; round >= 0; --round) {
    int shift = round * kBinBits;
    for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kThreads) shared.low[b] = shared.high[b] = 0;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < row.vocabulary; i += kThreads) {
      float distance = (top - row.logit(i)) * row.inverse;
      uint64_t rank = rank_of(distance);
      if (rank > limit || rank >= kFarthestRank || rank >> (shift + kBinBits) != prefix) continue;
      add(shared, static_cast<int>(rank >> shift & (kBins - 1)),
          counted == Counted::tokens ? 1 : mass_of(distance));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      Mass passed = 0;
      int bin = 0;
      for (; bin < kBins - 1; ++bin) {
        Mass here = Mass{shared.high[bin]} << 32 | shared.low[bin];
        if (passed + here >= wanted) break;
        passed += here;
      }
      shared.passed = passed;
      shared.chosen_bin = static_cast<Mass>(bin);
    }
    __syncthreads();
    wanted -= shared.passed;
    prefix = prefix << kBinBits | shared.chosen_bin;
    __syncthreads();
  }
  return prefix;
}

__device__ Mass mass_within(Shared& shared, const Row& row, float top, uint64_t limit, Mass least) {
  Mass total = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.vocabulary; i += kThreads) {
    float distance = (top - row.logit(i)) * row.inverse;
    if (rank_of(distance) > limit) continue;
    Mass mass = mass_of(distance);
    if (mass >= least) total += mass;
  }
  return block_sum(shared, total);
}

// A warp has a stretch of the vocabulary; the warp in whose stretch the target falls walks through it.
__device__ int draw(Shared& shared, const Row& row, float top, uint64_t limit, Mass least, uint64_t random) {
  int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  int stretch = (row.vocabulary + kThreads - 1) / kThreads * kWarp;
  int first = warp * stretch, last = min(row.vocabulary, first + stretch);
  auto mass_at = [&](int i) {
    float distance = i < last ? (top - row.logit(i)) * row.inverse : kFarthest;
    if (rank_of(distance) > limit || distance >= kFarthest) return Mass{0};
    Mass mass = mass_of(distance);
    return mass >= least ? mass : Mass{0};
  };
  Mass own = 0;
  for (int i = first + lane; i < last; i += kWarp) own += mass_at(i);
  own = warp_sum(own);
  if (lane == 0) shared.warp_mass[warp] = own;
  __syncthreads();
  Mass total = 0;
  for (int w = 0; w < kWarps; ++w) total += shared.warp_mass[w];
  Mass target = __umul64hi(random, total), before = 0;
  int chosen = 0;
  while (chosen < kWarps - 1 && before + shared.warp_mass[chosen] <= target)
    before += shared.warp_mass[chosen++];
  if (warp == chosen) {
    target -= before;
    for (int start = first; start < last; start += kWarp) {
      Mass mass = mass_at(start + lane), sum = mass;
      for (int step = 1; step < kWarp; step *= 2) {
        Mass other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += other;
      }
      if (mass != 0 && sum > target && sum - mass <= target) shared.token = start + lane;
      Mass all = __shfl_sync(0xffffffffu, sum, kWarp - 1);
      if (all > target) break;
      target -= all;
    }
  }
  __syncthreads();
  return shared.token;
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(const float* logits, int64_t ld, int vocabulary, const DrawRow* draws, uint32_t* seen,
                  int64_t words, int32_t* tokens) {
  __shared__ Shared shared;
  DrawRow how = draws[blockIdx.x];
  uint32_t* marks = how.seen < 0 ? nullptr : seen + how.seen * words;
  Row row{logits + int64_t{blockIdx.x} * ld, vocabulary, how.penalty == 1 ? nullptr : marks, how.penalty,
          how.temperature > 0 ? 1.0f / how.temperature : 1.0f};
  float top;
  int token = find_top(shared, row, top);
  if (how.temperature > 0) {
    uint64_t limit = kFarthestRank - 1;
    if (how.top_k > 0 && how.top_k < vocabulary) {
      // fewer tokens than top_k may lie within reach: then all of them are kept
      limit = find_rank(shared, row, top, limit, Counted::tokens, static_cast<Mass>(how.top_k));
    }
    if (how.top_p < 1) {
      Mass all = mass_within(shared, row, top, limit, 0);
      auto wanted = static_cast<Mass>(static_cast<double>(how.top_p) * static_cast<double>(all));
      uint64_t cut = find_rank(shared, row, top, limit, Counted::mass, wanted == 0 ? 1 : wanted);
      limit = cut < limit ? cut : limit;
    }
    auto least = static_cast<Mass>(static_cast<double>(how.min_p) * 1099511627776.0);
    __syncthreads();
    token = draw(shared, row, top, limit, least, uint64_t{how.random_high} << 32 | how.random_low);
  }
  if (threadIdx.x == 0) {
    tokens[blockIdx.x] = token;
    if (marks != nullptr) marks[token / 32] |= 1u << (token % 32);
  }
}

}  // namespace

void sample(cudaStream_t stream, const Matrix& logits, const DrawRow* rows, uint32_t* seen, int64_t words,
            int32_t* tokens) {
  if (logits.rows == 0) return;
  sample_kernel<<<static_cast<unsigned>(logits.rows), kThreads, 0, stream>>>(
      static_cast<const float*>(logits.data), logits.ld, static_cast<int>(logits.cols), rows, seen, words,
      tokens);
}

}  // namespace llmft::cuda
