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
constexpr int kPieces = 16;  // of 8 elements of each row of two, that a thread's results are
constexpr uint32_t kKeptBytes = 2 * kGroupThreads * kPieces * 16;
constexpr unsigned kAllLanes = 0xffffffffu;

enum class Pass { forward, backward };

// Stages are what shared memory has room for.
template <Finish kFinish>
constexpr int kStages = kFinish == Finish::behind ? 3 : 4;
template <Finish kFinish>
constexpr uint32_t kSharedBytes = kAlignment + kStages<kFinish>* kStageBytes +
                                  (kFinish == Finish::behind ? kKeptBytes : 0) + 2 * kStages<kFinish> * 8;

template <class S>
struct Sizes {
  int rows;         // T
  int width;        // F
  int inner_steps;  // K / 64, rounded up
  int row_pairs;    // tiles of a cluster
  int col_tiles;
  int row_group;
  S* gate_up;
  int64_t gate_up_ld;
  S* h;
  int64_t h_ld;
};

struct Place {
  int row_pair;
  int col_tile;
};

// Tiles in an order that keeps what the clusters read at one time small: `row_group` pairs of rows, column
// after column.
template <class S>
__device__ Place place_of(const Sizes<S>& sizes, int tile) {
  int per_group = sizes.row_group * sizes.col_tiles;
  int group = tile / per_group, rest = tile % per_group, first = group * sizes.row_group;
  int pairs = min(sizes.row_group, sizes.row_pairs - first);
  return {first + rest % pairs, rest / pairs};
}

struct Shared {
  uint32_t stages;  // of [input | weight]
  uint32_t kept;    // Finish::behind: results of the last tile, kPieces of 16 bytes a thread
  uint32_t full;    // a barrier a stage: bytes have come
  uint32_t empty;   // a barrier a stage: both blocks have read them

  __device__ uint32_t input(int stage) const { return stages + static_cast<uint32_t>(stage) * kStageBytes; }
  __device__ uint32_t weight(int stage) const { return input(stage) + kInputBytes; }
  __device__ uint32_t full_at(int stage) const { return full + static_cast<uint32_t>(stage) * 8; }
  __device__ uint32_t empty_at(int stage) const { return empty + static_cast<uint32_t>(stage) * 8; }
};

// The stage in use and how often all have been used, modulo 2.
template <Finish kFinish>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages<kFinish>) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// gate and up of the tile are asked into L2, some rows with each step, long before they are read.
template <class S>
__device__ void prefetch_rows(const Sizes<S>& sizes, int row, int col, int step) {
  int per_step = (kRows + sizes.inner_steps - 1) / sizes.inner_steps, begin = step * per_step;
  auto bytes = static_cast<uint32_t>(min(kCols, sizes.width - col)) * static_cast<uint32_t>(sizeof(S));
#pragma unroll 1
  for (int r = row + begin; r < min(row + min(begin + per_step, kRows), sizes.rows); ++r) {
    const S* gate = sizes.gate_up + r * sizes.gate_up_ld + col;
    prefetch_to_l2(gate, bytes);
    prefetch_to_l2(gate + sizes.width, bytes);
  }
}

template <class S, Pass kPass, Finish kFinish>
__device__ void feed(const CUtensorMap& input, const CUtensorMap& weight, const Sizes<S>& sizes,
                     const Shared& shared, int rank) {
  constexpr uint16_t kBoth = 0b11;
  Ring<kFinish> ring;
  for (int tile = static_cast<int>(blockIdx.x) / kBlocks; tile < sizes.row_pairs * sizes.col_tiles;
       tile += static_cast<int>(gridDim.x) / kBlocks) {
    Place place = place_of(sizes, tile);
    int row = (place.row_pair * kBlocks + rank) * kRows;
    for (int step = 0; step < sizes.inner_steps; ++step, ring.advance()) {
      barrier_wait(shared.empty_at(ring.stage), ring.parity ^ 1);
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
        prefetch_rows(sizes, row, place.col_tile * kCols, step);
      }
    }
  }
}

// v[i] of lane t becomes v[t] of lane i, within each 4 lanes.
__device__ inline void transpose_words(uint32_t (&v)[4]) {
  bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    uint32_t other = __shfl_xor_sync(kAllLanes, odd ? v[i] : v[i + 1], 1);
    (odd ? v[i] : v[i + 1]) = other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint32_t other = __shfl_xor_sync(kAllLanes, high ? v[i] : v[i + 2], 2);
    (high ? v[i] : v[i + 2]) = other;
  }
}

// Where a thread's results go: the first of its two rows, 8 below the other, and the first of the 8 columns
// that are its own of every 32 once the words of 4 lanes are transposed.
struct Corner {
  int row;
  int col;
};
__device__ inline Corner corner_of(int tile_row, int group) {
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  int warp = static_cast<int>(threadIdx.x) % kGroupThreads / kWarp;
  return {tile_row + 64 * group + 16 * warp + lane / 4, lane % 4 * 8};
}

// Of columns 32 part .. 32 part + 31 of a sum, row `half` of the thread's two: its 8 as 16-bit words.
template <class S>
__device__ void rounded_words(const float (&sum)[128], int part, int half, uint32_t (&words)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) words[i] = pack_word<S>(&sum[16 * part + 4 * i + 2 * half]);
}

__device__ inline void store_words(void* to, const uint32_t (&words)[4]) {
  *static_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
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

template <class S>
__device__ void finish_forward(const Sizes<S>& sizes, const float (&sum)[128], Corner corner, int col) {
#pragma unroll
  for (int part = 0; part < 4; ++part)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t gate[4], up[4], h[4];
      rounded_words<S>(sum, part, half, gate);
      rounded_words<S>(sum, part + 4, half, up);
      transpose_words(gate);
      transpose_words(up);
#pragma unroll
      for (int i = 0; i < 4; ++i) h[i] = swiglu_word<S>(gate[i], up[i]);
      int row = corner.row + 8 * half, at = col + 32 * part + corner.col;
      if (row < sizes.rows) {
        S* to = sizes.gate_up + row * sizes.gate_up_ld + at;
        store_words(to, gate);
        store_words(to + sizes.width, up);
        store_words(sizes.h + row * sizes.h_ld + at, h);
      }
    }
}

// gate and up of some pieces of 8 elements; pieces 2 p and 2 p + 1 are both rows of the p-th 32 columns.
constexpr int kBatch = 2;
struct Loaded {
  uint4 gate[kBatch];
  uint4 up[kBatch];
};

template <class S>
__device__ Loaded load_pieces(const Sizes<S>& sizes, Corner corner, int col, int batch) {
  Loaded loaded;
#pragma unroll
  for (int piece = 0; piece < kBatch; ++piece) {
    int row = corner.row + 8 * (piece % 2), at = col + 16 * (kBatch * batch + piece / 2 * 2) + corner.col;
    loaded.gate[piece] = loaded.up[piece] = make_uint4(0, 0, 0, 0);
    if (row < sizes.rows && at < sizes.width) {
      const S* from = sizes.gate_up + row * sizes.gate_up_ld + at;
      loaded.gate[piece] = *reinterpret_cast<const uint4*>(from);
      loaded.up[piece] = *reinterpret_cast<const uint4*>(from + sizes.width);
    }
  }
  return loaded;
}

template <class S>
__device__ void finish_piece(const Sizes<S>& sizes, uint32_t (&dh)[4], const uint4& gate_in,
                             const uint4& up_in, int row, int at) {
  uint32_t gate[4] = {gate_in.x, gate_in.y, gate_in.z, gate_in.w};
  uint32_t up[4] = {up_in.x, up_in.y, up_in.z, up_in.w};
  uint32_t h[4];
  transpose_words(dh);
#pragma unroll
  for (int i = 0; i < 4; ++i) h[i] = swiglu_gradient_words<S>(dh[i], gate[i], up[i]);
  if (row < sizes.rows && at < sizes.width) {
    S* to = sizes.gate_up + row * sizes.gate_up_ld + at;
    store_words(to, gate);
    store_words(to + sizes.width, up);
    if (sizes.h != nullptr) store_words(sizes.h + row * sizes.h_ld + at, h);
  }
}

// `now`: batch 0, loaded while the last products ran. Each next batch is asked for before one is used.
template <class S>
__device__ void finish_backward(const Sizes<S>& sizes, const float (&sum)[128], Corner corner, int col,
                                Loaded now) {
  uint32_t dh[kPieces][4];
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) rounded_words<S>(sum, piece / 2, piece % 2, dh[piece]);
#pragma unroll
  for (int batch = 0; batch < kPieces / kBatch; ++batch) {
    Loaded next = now;
    if (batch + 1 < kPieces / kBatch) next = load_pieces(sizes, corner, col, batch + 1);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      int piece = kBatch * batch + i;
      finish_piece(sizes, dh[piece], now.gate[i], now.up[i], corner.row + 8 * (piece % 2),
                   col + 32 * (piece / 2) + corner.col);
    }
    now = next;
  }
}

// Finish::behind: a thread's rounded sums of the last tile wait in shared memory, where no other thread
// looks, and are finished piece by piece while the tensor cores work on the next tile. Forward, piece p is
// gate and up of row p % 2 and 32-column part p / 2 of 4; backward, dh of row p % 2 and part p / 2 of 8.
template <class S, Pass kPass>
class Behind {
 public:
  __device__ Behind(const Sizes<S>& sizes, const Shared& shared, int group)
      : sizes_(sizes),
        own_(shared.kept + static_cast<uint32_t>(group) * (kKeptBytes / 2) +
             threadIdx.x % kGroupThreads * 16) {}

  __device__ bool any() const { return next_ < kCount; }

  __device__ void keep(const float (&sum)[128], Corner corner, int col) {
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      uint32_t words[4];
      rounded_words<S>(sum, piece / 2, piece % 2, words);
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(place(piece)), "r"(words[0]),
                   "r"(words[1]), "r"(words[2]), "r"(words[3])
                   : "memory");
    }
    to_ = sizes_.gate_up + corner.row * sizes_.gate_up_ld + col + corner.col;
    h_ = sizes_.h == nullptr ? nullptr : sizes_.h + corner.row * sizes_.h_ld + col + corner.col;
    row_ = corner.row;
    col_ = col + corner.col;
    next_ = 0;
  }

  // What the next piece needs from memory; long before finish_one.
  __device__ void ask() {
    if constexpr (kPass == Pass::backward) {
      gate_ = up_ = make_uint4(0, 0, 0, 0);
      if (!any() || !inside()) return;
      const S* from = to_ + offset(sizes_.gate_up_ld);
      gate_ = *reinterpret_cast<const uint4*>(from);
      up_ = *reinterpret_cast<const uint4*>(from + sizes_.width);
    }
  }

  __device__ void finish_one() {
    if (!any()) return;
    uint32_t h[4];
    if constexpr (kPass == Pass::forward) {
      uint32_t gate[4], up[4];
      take(next_, gate);
      take(next_ + kCount, up);
      transpose_words(gate);
      transpose_words(up);
#pragma unroll
      for (int i = 0; i < 4; ++i) h[i] = swiglu_word<S>(gate[i], up[i]);
      if (inside()) {
        S* to = to_ + offset(sizes_.gate_up_ld);
        store_words(to, gate);
        store_words(to + sizes_.width, up);
        store_words(h_ + offset(sizes_.h_ld), h);
      }
    } else {
      uint32_t dh[4], gate[4] = {gate_.x, gate_.y, gate_.z, gate_.w}, up[4] = {up_.x, up_.y, up_.z, up_.w};
      take(next_, dh);
      transpose_words(dh);
#pragma unroll
      for (int i = 0; i < 4; ++i) h[i] = swiglu_gradient_words<S>(dh[i], gate[i], up[i]);
      if (inside()) {
        S* to = to_ + offset(sizes_.gate_up_ld);
        store_words(to, gate);
        store_words(to + sizes_.width, up);
        if (h_ != nullptr) store_words(h_ + offset(sizes_.h_ld), h);
      }
    }
    ++next_;
  }

 private:
  static constexpr int kCount = kPass == Pass::forward ? kPieces / 2 : kPieces;

  __device__ uint32_t place(int piece) const {
    return own_ + static_cast<uint32_t>(piece) * (kGroupThreads * 16);
  }
  __device__ void take(int piece, uint32_t (&words)[4]) const {
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(place(piece))
                 : "memory");
  }
  __device__ bool inside() const {
    return row_ + next_ % 2 * 8 < sizes_.rows && col_ + next_ / 2 * 32 < sizes_.width;
  }
  __device__ int64_t offset(int64_t ld) const {
    return next_ % 2 * 8 * ld + next_ / 2 * 32;
  }

  const Sizes<S>& sizes_;
  uint32_t own_;
  int next_ = kCount;
  S* to_ = nullptr;
  S* h_ = nullptr;
  int row_ = 0;
  int col_ = 0;
  uint4 gate_, up_;
};

// The two warp groups' meeting before the first tile.
__device__ inline void let_second_group_start() {
  asm volatile("bar.arrive 1, 256;" ::: "memory");
}
__device__ inline void wait_for_first_group() {
  asm volatile("bar.sync 1, 256;" ::: "memory");
}

// Holds the compiler to the order of registers and asynchronous products.
__device__ inline void touch(float (&sum)[128]) {
#pragma unroll
  for (float& value : sum) asm volatile("" : "+f"(value)::"memory");
}

template <class S, Pass kPass, Finish kFinish>
__device__ void multiply(const Sizes<S>& sizes, const Shared& shared, int rank, int group) {
  constexpr int kTransposedB = kPass == Pass::backward;
  constexpr uint32_t kNextWeight =
      kTransposedB ? 16 * 128 : 32;  // bytes to the next 16 of the inner dimension
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  auto release = [&](int stage) {
    if (lane < kBlocks) barrier_arrive(shared.empty_at(stage), static_cast<uint32_t>(lane));
  };
  Ring<kFinish> ring;
  Behind<S, kPass> behind(sizes, shared, group);
  float sum[128];
  bool first_tile = true;
  for (int tile = static_cast<int>(blockIdx.x) / kBlocks; tile < sizes.row_pairs * sizes.col_tiles;
       tile += static_cast<int>(gridDim.x) / kBlocks) {
    if (first_tile && group == 1) wait_for_first_group();
    int head_start = first_tile && group == 0 ? min(kStages<kFinish> - 1, sizes.inner_steps) : 0;
    first_tile = false;

    int before = 0;  // the stage whose products are perhaps not done
    touch(sum);
    for (int step = 0; step < sizes.inner_steps; ++step) {
      if constexpr (kFinish == Finish::behind) behind.ask();
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
      if (step + 1 == head_start) let_second_group_start();
      products_wait<1>();
      if (step != 0) release(before);
      if constexpr (kFinish == Finish::behind) behind.finish_one();
      before = ring.stage;
      ring.advance();
    }

    Place place = place_of(sizes, tile);
    Corner corner = corner_of((place.row_pair * kBlocks + rank) * kRows, group);
    int col = place.col_tile * (kPass == Pass::forward ? kCols / 2 : kCols);
    auto products_done = [&] {
      products_wait<0>();
      touch(sum);
      release(before);
    };
    if constexpr (kFinish == Finish::behind) {
      products_done();
      while (behind.any()) {  // fewer steps than pieces
        behind.ask();
        behind.finish_one();
      }
      behind.keep(sum, corner, col);
    } else if constexpr (kPass == Pass::forward) {
      products_done();
      finish_forward(sizes, sum, corner, col);
    } else {
      Loaded first = load_pieces(sizes, corner, col, 0);
      products_done();
      finish_backward(sizes, sum, corner, col, first);
    }
  }
  while (kFinish == Finish::behind && behind.any()) {
    behind.ask();
    behind.finish_one();
  }
}

template <class S, Pass kPass, Finish kFinish>
__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads, 1)
    gemm_swiglu_kernel(const __grid_constant__ CUtensorMap input, const __grid_constant__ CUtensorMap weight,
                       const __grid_constant__ Sizes<S> sizes) {
  extern __shared__ unsigned char memory[];
  Shared shared;
  shared.stages = (shared_address(memory) + kAlignment - 1) / kAlignment * kAlignment;
  shared.kept = shared.stages + kStages<kFinish> * kStageBytes;
  shared.full = shared.kept + (kFinish == Finish::behind ? kKeptBytes : 0);
  shared.empty = shared.full + kStages<kFinish> * 8;
  int group = static_cast<int>(threadIdx.x) / kGroupThreads, rank = static_cast<int>(cluster_rank());
  if (threadIdx.x == 0) {
    prefetch_map(input);
    prefetch_map(weight);
    for (int stage = 0; stage < kStages<kFinish>; ++stage) {
      barrier_init(shared.full_at(stage), 1);
      barrier_init(shared.empty_at(stage), kBlocks * kConsumerWarps);
    }
    barrier_init_fence();
  }
  __syncwarp();
  cluster_sync();
  if (group == 0) {
    fewer_registers<40>();
    if (threadIdx.x == 0) feed<S, kPass, kFinish>(input, weight, sizes, shared, rank);
    __syncwarp();
  } else {
    more_registers<232>();
    multiply<S, kPass, kFinish>(sizes, shared, rank, group - 1);
  }
  cluster_wait();
}

template <class S, Pass kPass, Finish kFinish>
cudaError_t launch(cudaStream_t stream, const GemmSwiglu& g) {
  constexpr int kTileCols = kPass == Pass::forward ? kCols / 2 : kCols;
  auto tiles = [](int64_t size, int64_t tile) { return static_cast<int>((size + tile - 1) / tile); };
  int64_t width = g.gate_up.cols / 2;
  Sizes<S> sizes{static_cast<int>(g.gate_up.rows), static_cast<int>(width),
                 tiles(g.inner, kInner),           tiles(g.gate_up.rows, kBlocks * kRows),
                 tiles(width, kTileCols),          g.row_group,
                 static_cast<S*>(g.gate_up.data),  g.gate_up.ld,
                 static_cast<S*>(g.h.data),        g.h.ld};
  auto* kernel = gemm_swiglu_kernel<S, kPass, kFinish>;
  static const cudaError_t prepared =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes<kFinish>);
  if (prepared != cudaSuccess) return prepared;
  int clusters = std::min(sizes.row_pairs * sizes.col_tiles, std::max(1, g.multiprocessors / kBlocks));
  kernel<<<static_cast<unsigned>(clusters * kBlocks), kThreads, kSharedBytes<kFinish>, stream>>>(
      g.input, g.weight, sizes);
  return cudaGetLastError();
}

template <Pass kPass>
cudaError_t launch_typed(cudaStream_t stream, const GemmSwiglu& g) {
  auto with_type = [&]<class S>(S) {
    return g.finish == Finish::behind ? launch<S, kPass, Finish::behind>(stream, g)
                                      : launch<S, kPass, Finish::at_once>(stream, g);
  };
  return g.gate_up.type == Scalar::bf16 ? with_type(__nv_bfloat16()) : with_type(__half());
}

}  // namespace

cudaError_t gemm_swiglu(cudaStream_t stream, const GemmSwiglu& arguments) {
  return launch_typed<Pass::forward>(stream, arguments);
}

cudaError_t gemm_swiglu_backward(cudaStream_t stream, const GemmSwiglu& arguments) {
  return launch_typed<Pass::backward>(stream, arguments);
}

}  // namespace llmft::cuda
