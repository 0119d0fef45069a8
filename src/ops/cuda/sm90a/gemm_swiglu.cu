// One persistent kernel for both products. Two neighbouring blocks are a cluster and compute two tiles of 128
// rows below each other, with the same 256 columns of B: each brings half of B for both. In a block one
// thread feeds stages of 64 of the inner dimension, and two warp groups multiply 64 rows each.
//
// Forward, the 256 columns are 128 of gate and the same 128 of up, so a thread has both of each element.
// A stage is free when all 8 multiplying warps of *both* blocks have read it, since the neighbour's half of B
// lands there too; and no block may leave before its neighbour has stopped writing to it.
//
// While one warp group is busy with its results, the other should have the tensor cores: the second starts
// some stages late and stays so.
#include <algorithm>

#include "../gemm_swiglu.hpp"
#include "../swiglu_math.cuh"
#include "../vector.cuh"
#include "hopper.cuh"

namespace llmft::cuda {
namespace {

constexpr int kRows = 128;  // of a block's tile
constexpr int kCols = 256;
constexpr int kInner = kSwigluInner;
constexpr int kBlocks = 2;  // of a cluster
constexpr int kGroupThreads = 128;
constexpr int kThreads = 3 * kGroupThreads;
constexpr int kConsumerWarps = 8;
constexpr uint32_t kInputBytes = kRows * kInner * 2;
constexpr uint32_t kWeightBytes = kCols * kInner * 2;
constexpr uint32_t kStageBytes = kInputBytes + kWeightBytes;
constexpr uint32_t kWeightBoxBytes = 64 * kInner * 2;  // backward
constexpr uint32_t kAlignment = 1024;                  // of swizzled rows
constexpr uint32_t kKeptBytes = kRows * kCols;         // half of a tile's results

enum class Pass { forward, backward };

constexpr int kRowGroup = 8;
constexpr int kStages = 4;  // what shared memory has room for
constexpr uint32_t kSharedBytes = kAlignment + kStages * kStageBytes + kKeptBytes + 2 * kStages * 8;

template <class S>
struct Sizes {
  int rows;         // T
  int width;        // F
  int inner_steps;  // K / 64, rounded up
  int row_pairs;    // tiles of a cluster
  int col_tiles;
  S* gate_up;
  int64_t gate_up_ld;
  S* h;
  int64_t h_ld;
};

struct Place {
  int row_pair;
  int col_tile;
};

// Tiles in an order that keeps what the clusters read at one time small: kRowGroup pairs of rows, column
// after column.
template <class S>
__device__ Place place_of(const Sizes<S>& sizes, int tile) {
  int per_group = kRowGroup * sizes.col_tiles;
  int group = tile / per_group, rest = tile % per_group, first = group * kRowGroup;
  int pairs = min(kRowGroup, sizes.row_pairs - first);
  return {first + rest % pairs, rest / pairs};
}

struct Shared {
  uint32_t stages;  // of [input | weight]
  uint32_t kept;    // rounded results of the last tile
  uint32_t full;    // a barrier a stage: bytes have come
  uint32_t empty;   // a barrier a stage: both blocks have read them

  __device__ uint32_t input(int stage) const { return stages + static_cast<uint32_t>(stage) * kStageBytes; }
  __device__ uint32_t weight(int stage) const { return input(stage) + kInputBytes; }
  __device__ uint32_t full_at(int stage) const { return full + static_cast<uint32_t>(stage) * 8; }
  __device__ uint32_t empty_at(int stage) const { return empty + static_cast<uint32_t>(stage) * 8; }
};

// The stage in use and how often all have been used, modulo 2.
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <class S, Pass kPass>
__device__ void feed(const CUtensorMap& input, const CUtensorMap& weight, const Sizes<S>& sizes,
                     const Shared& shared, int rank) {
  constexpr uint16_t kBoth = 0b11;
  int lane = static_cast<int>(threadIdx.x);
  Ring ring;
  for (int tile = static_cast<int>(blockIdx.x) / kBlocks; tile < sizes.row_pairs * sizes.col_tiles;
       tile += static_cast<int>(gridDim.x) / kBlocks) {
    Place place = place_of(sizes, tile);
    int row = (place.row_pair * kBlocks + rank) * kRows;
    for (int step = 0; step < sizes.inner_steps; ++step, ring.advance()) {
      barrier_wait(shared.empty_at(ring.stage), ring.parity ^ 1);
      __syncwarp();
      if (lane == 0) {
        uint32_t full = shared.full_at(ring.stage), to = shared.weight(ring.stage);
        barrier_expect(full, kStageBytes);
        copy_box(shared.input(ring.stage), input, step * kInner, row, full);
        if constexpr (kPass == Pass::forward) {
          int weight_row = rank * sizes.width + place.col_tile * (kCols / 2);
          copy_box(to + static_cast<uint32_t>(rank) * (kWeightBytes / 2), weight, step * kInner, weight_row,
                   full, kBoth);
        } else {
          for (int box = 2 * rank; box < 2 * rank + 2; ++box)
            copy_box(to + static_cast<uint32_t>(box) * kWeightBoxBytes, weight,
                     place.col_tile * kCols + box * 64, step * kInner, full, kBoth);
        }
      }
    }
  }
}

// Results are not read again soon, and L2 is for the operands: as what to evict first.
__device__ inline void store_words(void* to, const uint32_t (&words)[4]) {
  __stcs(static_cast<uint4*>(to), make_uint4(words[0], words[1], words[2], words[3]));
}

// Two elements each.
template <class S>
__device__ uint32_t swiglu_word(uint32_t gate, uint32_t up) {
  float g[2], u[2];
  unpack_word<S>(gate, g);
  unpack_word<S>(up, u);
  float h[2] = {swiglu_of<S>(g[0], u[0]), swiglu_of<S>(g[1], u[1])};
  return pack_word<S>(h);
}
// gate and up become their gradients; returns h.
template <class S>
__device__ uint32_t swiglu_gradient_words(uint32_t dh, uint32_t& gate, uint32_t& up) {
  float d[2], g[2], u[2], h[2];
  unpack_word<S>(dh, d);
  unpack_word<S>(gate, g);
  unpack_word<S>(up, u);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    SwigluGradient gradient = swiglu_gradient<S>(d[i], g[i], u[i]);
    g[i] = gradient.gate;
    u[i] = gradient.up;
    h[i] = gradient.h;
  }
  gate = pack_word<S>(g);
  up = pack_word<S>(u);
  return pack_word<S>(h);
}

// The two warp groups' meeting before the first tile.
__device__ inline void let_second_group_start() {
  asm volatile("bar.arrive 1, 256;" ::: "memory");
}
__device__ inline void wait_for_first_group() {
  asm volatile("bar.sync 1, 256;" ::: "memory");
}

// The results of the last tile: rounded, half of them wait in shared memory, where no other warp looks, and
// half in registers until the first are done; they are finished piece by piece while the tensor cores work on
// the next tile. Shared memory has 16 rows of 16 chunks of 16 bytes, chunk c of row r at c ^ (r % 8): threads
// that write words of 8 rows and threads that read neighbouring chunks of a row meet all banks. A half is,
// forward, 64 columns of gate and of up, backward, 128 of dh. A piece is so many rows of it that a thread has
// 8 elements, and a warp reads and writes whole lines.
template <class S, Pass kPass>
class Behind {
 public:
  static constexpr int kCount = kPass == Pass::forward ? 8 : 16;

  __device__ Behind(const Sizes<S>& sizes, const Shared& shared, int group)
      : sizes_(sizes),
        lane_(static_cast<int>(threadIdx.x) % kWarp),
        warp_(group * 4 + static_cast<int>(threadIdx.x) % kGroupThreads / kWarp),
        own_(shared.kept + static_cast<uint32_t>(warp_) * (kKeptBytes / kConsumerWarps)) {}

  __device__ bool any() const { return next_ < kCount; }

  // tile_row, col: where the block's tile begins.
  __device__ void keep(const float (&sum)[128], int tile_row, int col) {
    uint32_t words[kWords];
    take_half<0>(sum, words);
    put(words);
    take_half<1>(sum, held_);
    row_ = tile_row + 16 * warp_;
    col_ = col;
    next_ = 0;
    ask();
  }

  __device__ void finish_one() {
    if (!any()) return;
    if (next_ == kCount / 2) put(held_);
    uint32_t h[4];
    if constexpr (kPass == Pass::forward) {
      uint32_t gate[4], up[4];
      read(chunk(), gate);
      read(8 + chunk(), up);
#pragma unroll
      for (int i = 0; i < 4; ++i) h[i] = swiglu_word<S>(gate[i], up[i]);
      if (inside()) {
        store_words(gate_at(), gate);
        store_words(gate_at() + sizes_.width, up);
        store_words(h_at(), h);
      }
    } else {
      uint32_t dh[4], gate[4] = {gate_.x, gate_.y, gate_.z, gate_.w}, up[4] = {up_.x, up_.y, up_.z, up_.w};
      read(chunk(), dh);
#pragma unroll
      for (int i = 0; i < 4; ++i) h[i] = swiglu_gradient_words<S>(dh[i], gate[i], up[i]);
      if (inside()) {
        store_words(gate_at(), gate);
        store_words(gate_at() + sizes_.width, up);
        if (sizes_.h != nullptr) store_words(h_at(), h);
      }
    }
    ++next_;
    ask();
  }

 private:
  static constexpr int kWords = 32;  // of a thread in half of a tile
  static constexpr int kHalfCols = kPass == Pass::forward ? 64 : 128;
  static constexpr int kLanesOfRow = kHalfCols / 8;
  static constexpr int kRowsAtOnce = kWarp / kLanesOfRow;
  static constexpr uint32_t kRowBytes = kCols;

  // In sum there are 4 parts of 64 columns: forward, two of gate, then two of up.
  template <int kHalf>
  __device__ static void take_half(const float (&sum)[128], uint32_t (&words)[kWords]) {
#pragma unroll
    for (int chunk = 0; chunk < 16; ++chunk)
#pragma unroll
      for (int lower = 0; lower < 2; ++lower) {
        int group = kPass == Pass::forward ? 16 * (chunk / 8) + 8 * kHalf + chunk % 8 : 16 * kHalf + chunk;
        words[2 * chunk + lower] = pack_word<S>(&sum[4 * group + 2 * lower]);
      }
  }
  // A thread's address is that of a row of 8 elements in one of four blocks: rows 0 to 7 and 8 to 15 of two
  // neighbouring chunks.
  __device__ void put(const uint32_t (&words)[kWords]) const {
    auto row = static_cast<uint32_t>(lane_ % 8), lower = static_cast<uint32_t>(lane_ / 8 % 2);
    auto odd = static_cast<uint32_t>(lane_ / 16);
    uint32_t to = own_ + (row + 8 * lower) * kRowBytes;
    __syncwarp();
#pragma unroll
    for (uint32_t pair = 0; pair < 8; ++pair)
      store_blocks(to + pair / 4 * 128 + ((pair % 4 * 2 + odd) ^ row) * 16, &words[4 * pair]);
    __syncwarp();
  }
  // Of the next piece: rows from the start of its half, and of the whole.
  __device__ int half_row() const {
    return next_ % (kCount / 2) * kRowsAtOnce + lane_ / kLanesOfRow;
  }
  __device__ int row() const {
    return row_ + half_row();
  }
  __device__ int col() const {
    return col_ + next_ / (kCount / 2) * kHalfCols + chunk() * 8;
  }
  __device__ int chunk() const {
    return lane_ % kLanesOfRow;
  }
  __device__ S* gate_at() const {
    return sizes_.gate_up + row() * sizes_.gate_up_ld + col();
  }
  __device__ S* h_at() const {
    return sizes_.h + row() * sizes_.h_ld + col();
  }
  __device__ bool inside() const {
    return row() < sizes_.rows && col() < sizes_.width;
  }
  __device__ void read(int at, uint32_t (&words)[4]) const {
    int row = half_row();
    asm volatile(
        "ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
        : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
        : "r"(own_ + static_cast<uint32_t>(row) * kRowBytes + static_cast<uint32_t>(at ^ (row & 7)) * 16)
        : "memory");
  }
  // What the next piece needs from memory, long before it is finished.
  __device__ void ask() {
    if constexpr (kPass == Pass::backward) {
      gate_ = up_ = make_uint4(0, 0, 0, 0);
      if (!any() || !inside()) return;
      gate_ = __ldcs(reinterpret_cast<const uint4*>(gate_at()));
      up_ = __ldcs(reinterpret_cast<const uint4*>(gate_at() + sizes_.width));
    }
  }

  const Sizes<S>& sizes_;
  int lane_;
  int warp_;
  uint32_t own_;
  int next_ = kCount;
  int row_ = 0;  // of this warp's results
  int col_ = 0;
  uint32_t held_[kWords];
  uint4 gate_, up_;
};

// Holds the compiler to the order of registers and asynchronous products.
__device__ inline void touch(float (&sum)[128]) {
#pragma unroll
  for (float& value : sum) asm volatile("" : "+f"(value)::"memory");
}

template <class S, Pass kPass>
__device__ void multiply(const Sizes<S>& sizes, const Shared& shared, int rank, int group) {
  constexpr int kTransposedB = kPass == Pass::backward;
  constexpr uint32_t kNextWeight =
      kTransposedB ? 16 * 128 : 32;  // bytes to the next 16 of the inner dimension
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  auto release = [&](int stage) {
    if (lane < kBlocks) barrier_arrive(shared.empty_at(stage), static_cast<uint32_t>(lane));
  };
  Ring ring;
  Behind<S, kPass> behind(sizes, shared, group);
  float sum[128];
  if (group == 1) wait_for_first_group();
  int head_start = group == 0 ? min(kStages - 1, sizes.inner_steps) : 0;
  int every = max(1, sizes.inner_steps / decltype(behind)::kCount);
  for (int tile = static_cast<int>(blockIdx.x) / kBlocks; tile < sizes.row_pairs * sizes.col_tiles;
       tile += static_cast<int>(gridDim.x) / kBlocks) {
    int until = every;
    int before = 0;  // the stage whose products are perhaps not done
    touch(sum);
    for (int step = 0; step < sizes.inner_steps; ++step) {
      barrier_wait(shared.full_at(ring.stage), ring.parity);
      __syncwarp();
      products_begin();
      uint64_t a = operand(shared.input(ring.stage) + static_cast<uint32_t>(group) * (64 * 128));
      uint64_t b = operand(shared.weight(ring.stage), kTransposedB ? kWeightBoxBytes : 16);
#pragma unroll
      for (uint32_t k = 0; k < kInner / 16; ++k)
        product_64x256x16<S, kTransposedB>(sum, further(a, 32 * k), further(b, kNextWeight * k),
                                           step != 0 || k != 0);
      products_commit();
      if (step + 1 == head_start) {
        let_second_group_start();
        head_start = 0;
      }
      products_wait<1>();
      if (step != 0) release(before);
      if (--until == 0) {
        behind.finish_one();
        until = every;
      }
      before = ring.stage;
      ring.advance();
    }

    Place place = place_of(sizes, tile);
    int row = (place.row_pair * kBlocks + rank) * kRows;
    int col = place.col_tile * (kPass == Pass::forward ? kCols / 2 : kCols);
    products_wait<0>();
    touch(sum);
    release(before);
    while (behind.any()) behind.finish_one();  // fewer steps than pieces
    behind.keep(sum, row, col);
  }
  while (behind.any()) behind.finish_one();
}

template <class S, Pass kPass>
__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads, 1)
    gemm_swiglu_kernel(const __grid_constant__ CUtensorMap input, const __grid_constant__ CUtensorMap weight,
                       const __grid_constant__ Sizes<S> sizes) {
  extern __shared__ unsigned char memory[];
  Shared shared;
  shared.stages = (shared_address(memory) + kAlignment - 1) / kAlignment * kAlignment;
  shared.kept = shared.stages + kStages * kStageBytes;
  shared.full = shared.kept + kKeptBytes;
  shared.empty = shared.full + kStages * 8;
  int group = static_cast<int>(threadIdx.x) / kGroupThreads, rank = static_cast<int>(cluster_rank());
  if (threadIdx.x == 0) {
    prefetch_map(input);
    prefetch_map(weight);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(shared.full_at(stage), 1);
      barrier_init(shared.empty_at(stage), kBlocks * kConsumerWarps);
    }
    barrier_init_fence();
  }
  __syncwarp();
  cluster_sync();
  if (group == 0) {
    fewer_registers<24>();
    if (threadIdx.x < kWarp) feed<S, kPass>(input, weight, sizes, shared, rank);
    __syncwarp();
  } else {
    more_registers<240>();
    multiply<S, kPass>(sizes, shared, rank, group - 1);
  }
  cluster_wait();
}

template <class S, Pass kPass>
cudaError_t launch(cudaStream_t stream, const GemmSwiglu& g) {
  constexpr int kTileCols = kPass == Pass::forward ? kCols / 2 : kCols;
  auto tiles = [](int64_t size, int64_t tile) { return static_cast<int>((size + tile - 1) / tile); };
  int64_t width = g.gate_up.cols / 2;
  Sizes<S> sizes{static_cast<int>(g.gate_up.rows),
                 static_cast<int>(width),
                 tiles(g.inner, kInner),
                 tiles(g.gate_up.rows, kBlocks * kRows),
                 tiles(width, kTileCols),
                 static_cast<S*>(g.gate_up.data),
                 g.gate_up.ld,
                 static_cast<S*>(g.h.data),
                 g.h.ld};
  auto* kernel = gemm_swiglu_kernel<S, kPass>;
  static const cudaError_t prepared =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (prepared != cudaSuccess) return prepared;
  int clusters = std::min(sizes.row_pairs * sizes.col_tiles, std::max(1, g.multiprocessors / kBlocks));
  kernel<<<static_cast<unsigned>(clusters * kBlocks), kThreads, kSharedBytes, stream>>>(g.input, g.weight,
                                                                                        sizes);
  return cudaGetLastError();
}

template <Pass kPass>
cudaError_t launch_typed(cudaStream_t stream, const GemmSwiglu& g) {
  return g.gate_up.type == Scalar::bf16 ? launch<__nv_bfloat16, kPass>(stream, g)
                                        : launch<__half, kPass>(stream, g);
}

}  // namespace

cudaError_t gemm_swiglu(cudaStream_t stream, const GemmSwiglu& arguments) {
  return launch_typed<Pass::forward>(stream, arguments);
}

cudaError_t gemm_swiglu_backward(cudaStream_t stream, const GemmSwiglu& arguments) {
  return launch_typed<Pass::backward>(stream, arguments);
}

}  // namespace llmft::cuda
