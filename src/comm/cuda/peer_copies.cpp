#include "peer_copies.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string_view>

#include <cuda.h>

#include "llmft/base/error.hpp"

namespace llmft {
namespace {

// Where a shard lies: in an allocation, which is what a handle stands for.
struct Place {
  cudaIpcMemHandle_t allocation;
  uint64_t offset;
};

// The allocation that a pointer is in, from the driver: small ones share one.
bool find_place(const void* data, Place& place) {
  static auto* const range_of = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    auto status =
        cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &function, 12000, cudaEnableDefault, &found);
    bool there = status == cudaSuccess && found == cudaDriverEntryPointSuccess;
    return there ? reinterpret_cast<CUresult (*)(CUdeviceptr*, size_t*, CUdeviceptr)>(function) : nullptr;
  }();
  CUdeviceptr base = 0, at = reinterpret_cast<CUdeviceptr>(data);
  size_t bytes = 0;
  if (range_of == nullptr || range_of(&base, &bytes, at) != CUDA_SUCCESS) return false;
  place.offset = at - base;
  return cudaIpcGetMemHandle(&place.allocation, reinterpret_cast<void*>(base)) == cudaSuccess;
}

// Other ranks' allocations in this process: each is opened once, whatever lies in it.
class Mappings {
 public:
  Mappings() = default;
  ~Mappings() {
    for (auto& [handle, base] : opened_) cudaIpcCloseMemHandle(base);
  }
  Mappings(const Mappings&) = delete;
  Mappings& operator=(const Mappings&) = delete;

  std::byte* open(const Place& place) {
    auto same = [&](const auto& one) {
      return std::memcmp(&one.first, &place.allocation, sizeof one.first) == 0;
    };
    auto found = std::find_if(opened_.begin(), opened_.end(), same);
    if (found == opened_.end()) {
      void* base = nullptr;
      if (cudaIpcOpenMemHandle(&base, place.allocation, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess)
        return nullptr;
      found = opened_.insert(opened_.end(), {place.allocation, base});
    }
    return static_cast<std::byte*>(found->second) + place.offset;
  }

 private:
  std::vector<std::pair<cudaIpcMemHandle_t, void*>> opened_;
};

class PeerCopies final : public PeerMemory {
 public:
  // shards[r][i]: rank r's shard i, as this process sees it.
  PeerCopies(const Line& collectives, MPI_Comm ranks, std::unique_ptr<Mappings> mappings,
             std::vector<std::vector<const std::byte*>> shards)
      : collectives_(collectives),
        line_(Line::beside(collectives)),
        ranks_(ranks),
        mappings_(std::move(mappings)),
        shards_(std::move(shards)) {
    MPI_Comm_rank(ranks_, &rank_);
  }
  // No rank may free what another one reads, or has mapped. One that unwinds from an error waits for nobody.
  ~PeerCopies() override {
    if (std::uncaught_exceptions() > 0) return;
    cudaStreamSynchronize(line_->stream());
    mappings_.reset();
    MPI_Barrier(ranks_);
  }
  PeerCopies(const PeerCopies&) = delete;
  PeerCopies& operator=(const PeerCopies&) = delete;

  // Each rank begins with its neighbour, so that not all read from the same one.
  Started start_gather(size_t which, const Tensor& full) override {
    size_t n = shards_.size(), bytes = full.bytes() / n;
    check(full.contiguous() && full.bytes() % n == 0, "peer memory: sizes differ");
    line_->begin("peer copies", full.bytes());
    for (size_t i = 1; i <= n; ++i) {
      size_t from = (static_cast<size_t>(rank_) + i) % n;
      auto* to = static_cast<std::byte*>(full.data) + from * bytes;
      const std::byte* shard = shards_[from][which];
      if (shard != to) cuda_check(cudaMemcpyAsync(to, shard, bytes, cudaMemcpyDefault, line_->stream()));
    }
    return line_->end("peer copies", full.bytes());
  }
  void wait(Started gathering) override { line_->wait(gathering); }
  void wait_all() override { line_->wait_all(); }
  void after(Started collective) override { line_->after(collectives_, collective); }

 private:
  const Line& collectives_;
  std::shared_ptr<Line> line_;
  MPI_Comm ranks_;
  int rank_ = 0;
  std::unique_ptr<Mappings> mappings_;
  std::vector<std::vector<const std::byte*>> shards_;
};

}  // namespace

std::unique_ptr<PeerMemory> share_by_copies(const Line& collectives, MPI_Comm ranks,
                                            const std::vector<Tensor>& shards) {
  int rank = 0, size = 0, here = 0;
  MPI_Comm_rank(ranks, &rank);
  MPI_Comm_size(ranks, &size);
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(ranks, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node);
  MPI_Comm_size(node, &here);
  MPI_Comm_free(&node);
  const char* wanted = std::getenv("LLMFT_PEER_COPIES");
  int possible = here == size && (wanted == nullptr || std::string_view(wanted) != "0");

  auto n = static_cast<size_t>(size), count = shards.size();
  std::vector<Place> mine(count), all(n * count);
  for (size_t i = 0; i < count && possible; ++i) possible = find_place(shards[i].data, mine[i]);
  auto bytes = static_cast<int>(count * sizeof(Place));
  MPI_Allgather(mine.data(), bytes, MPI_BYTE, all.data(), bytes, MPI_BYTE, ranks);
  MPI_Allreduce(MPI_IN_PLACE, &possible, 1, MPI_INT, MPI_MIN, ranks);

  auto mappings = std::make_unique<Mappings>();
  std::vector<std::vector<const std::byte*>> seen(n);
  for (size_t r = 0; r < n; ++r)
    for (size_t i = 0; i < count && possible; ++i) {
      bool own = r == static_cast<size_t>(rank);
      seen[r].push_back(own ? static_cast<const std::byte*>(shards[i].data)
                            : mappings->open(all[r * count + i]));
      possible = seen[r].back() != nullptr;
    }
  MPI_Allreduce(MPI_IN_PLACE, &possible, 1, MPI_INT, MPI_MIN, ranks);
  cudaGetLastError();  // what was not possible is no error of what comes next
  if (possible) return std::make_unique<PeerCopies>(collectives, ranks, std::move(mappings), std::move(seen));
  mappings.reset();
  MPI_Barrier(ranks);  // before an owner frees what is mapped
  return nullptr;
}

}  // namespace llmft
