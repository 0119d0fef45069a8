#include <cstring>
#include <exception>
#include <limits>
#include <utility>

#include <mpi.h>

#include "llmft/base/clock.hpp"
#include "llmft/comm/activity.hpp"
#include "llmft/comm/peer_memory.hpp"
#include "llmft/device/device.hpp"

namespace llmft {
namespace {

int count_of(const Tensor& x) {
  check(x.contiguous(), "collective on a strided tensor");
  check(x.numel() <= std::numeric_limits<int>::max(), "collective on more elements than MPI counts");
  return static_cast<int>(x.numel());
}

MPI_Datatype type_of(const Tensor& x) {
  return size_of(x.dtype) == 8 ? MPI_DOUBLE : size_of(x.dtype) == 4 ? MPI_FLOAT : MPI_UINT16_T;
}

class SelfComm final : public Comm {
 public:
  explicit SelfComm(Device* device) : device_(device) {}
  int rank() const override { return 0; }
  int size() const override { return 1; }
  Started start_all_reduce(const Tensor&) override { return {}; }
  Started start_all_gather(const Tensor& shard, const Tensor& full) override { return same(shard, full); }
  Started start_reduce_scatter(const Tensor& full, const Tensor& shard) override { return same(full, shard); }
  Started start_all_to_all(const Tensor& sent, const Tensor& received) override {
    return same(sent, received);
  }
  Started start_broadcast(const Tensor&, int) override { return {}; }
  void wait(Started) override {}
  void all_reduce_host(std::span<double>) override {}
  Exposed exposed() override { return {}; }
  std::unique_ptr<Comm> split(int) override { return std::make_unique<SelfComm>(device_); }

 private:
  Started same(const Tensor& from, const Tensor& to) {
    check(count_of(from) == count_of(to), "collective sizes differ");
    if (from.data == to.data) return {};
    if (device_ != nullptr)
      device_->copy(to.data, from.data, from.bytes());
    else
      std::memcpy(to.data, from.data, from.bytes());
    return {};
  }

  Device* device_;  // null: host tensors
};

// MPI's blocking collectives: what start_...() begins is done when it returns.
class MpiComm final : public Comm {
 public:
  // Takes over the communicator. A split's parts count into one sum.
  MpiComm(MPI_Comm ranks, std::shared_ptr<Exposed> exposed) : comm_(ranks), exposed_(std::move(exposed)) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }
  // Freeing is collective, and a rank that unwinds from an error must not wait for the others.
  ~MpiComm() override {
    if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
  }
  MpiComm(const MpiComm&) = delete;
  MpiComm& operator=(const MpiComm&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Started start_all_reduce(const Tensor& x) override {
    check(x.dtype == DType::f32 || x.dtype == DType::f64, "only f32 and f64 are reduced");
    Exposure timed(*exposed_, "all_reduce", x.bytes());
    MPI_Allreduce(MPI_IN_PLACE, x.data, count_of(x), type_of(x), MPI_SUM, comm_);
    return {};
  }
  Started start_all_gather(const Tensor& shard, const Tensor& full) override {
    check(shard.dtype == full.dtype && shard.numel() * size_ == full.numel(), "all_gather sizes differ");
    bool in_place = shard.data == full.col_range(rank_ * shard.numel(), shard.numel()).data;
    Exposure timed(*exposed_, "all_gather", full.bytes());
    MPI_Allgather(in_place ? MPI_IN_PLACE : shard.data, count_of(shard), type_of(shard), full.data,
                  count_of(shard), type_of(full), comm_);
    return {};
  }
  Started start_reduce_scatter(const Tensor& full, const Tensor& shard) override {
    check(full.dtype == DType::f32 && shard.dtype == DType::f32 && shard.numel() * size_ == full.numel(),
          "reduce_scatter sizes differ");
    Exposure timed(*exposed_, "reduce_scatter", full.bytes());
    MPI_Reduce_scatter_block(full.data, shard.data, count_of(shard), MPI_FLOAT, MPI_SUM, comm_);
    return {};
  }
  Started start_all_to_all(const Tensor& sent, const Tensor& received) override {
    check(sent.dtype == received.dtype && sent.numel() == received.numel() && sent.numel() % size_ == 0,
          "all_to_all sizes differ");
    int piece = count_of(sent) / size_;
    Exposure timed(*exposed_, "all_to_all", sent.bytes());
    MPI_Alltoall(sent.data, piece, type_of(sent), received.data, piece, type_of(received), comm_);
    return {};
  }
  Started start_broadcast(const Tensor& x, int root) override {
    Exposure timed(*exposed_, "broadcast", x.bytes());
    MPI_Bcast(x.data, count_of(x), type_of(x), root, comm_);
    return {};
  }
  void wait(Started) override {}
  void all_reduce_host(std::span<double> values) override {
    Activity::Waiting waiting("sum of host values", values.size_bytes());
    MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_SUM, comm_);
  }

  Exposed exposed() override { return *exposed_; }

  std::unique_ptr<PeerMemory> share(const std::vector<Tensor>& shards) override;

  std::unique_ptr<Comm> split(int colour) override {
    MPI_Comm part = MPI_COMM_NULL;
    MPI_Comm_split(comm_, colour, rank_, &part);
    return std::make_unique<MpiComm>(part, exposed_);
  }

 private:
  struct Exposure {
    Exposure(Exposed& sum, const char* name, size_t bytes) : total(sum), waiting(name, bytes) {}
    ~Exposure() {
      total.seconds += watch.seconds();
      ++total.waits;
    }
    Exposed& total;
    Activity::Waiting waiting;
    Stopwatch watch;
  };

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  std::shared_ptr<Exposed> exposed_;
};

// Processes do not see each other's memory: the same by collectives, in which all have to take part.
class GatheredMemory final : public PeerMemory {
 public:
  GatheredMemory(Comm& comm, std::vector<Tensor> shards) : comm_(comm), shards_(std::move(shards)) {}
  Started start_gather(size_t which, const Tensor& full) override {
    return comm_.start_all_gather(shards_[which], full);
  }
  void wait(Started gathering) override { comm_.wait(gathering); }
  void wait_all() override {}
  void after(Started) override {}

 private:
  Comm& comm_;
  std::vector<Tensor> shards_;
};

std::unique_ptr<PeerMemory> MpiComm::share(const std::vector<Tensor>& shards) {
  return std::make_unique<GatheredMemory>(*this, shards);
}

}  // namespace

std::unique_ptr<PeerMemory> Comm::share(const std::vector<Tensor>&) {
  return nullptr;
}

std::unique_ptr<Comm> make_self_comm() {
  return std::make_unique<SelfComm>(nullptr);
}

std::unique_ptr<Comm> make_self_comm(Device& device) {
  return std::make_unique<SelfComm>(&device);
}

std::unique_ptr<Comm> make_host_comm(const Process& process) {
  if (process.size() == 1) return make_self_comm();
  MPI_Comm ranks = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &ranks);
  return std::make_unique<MpiComm>(ranks, std::make_shared<Comm::Exposed>());
}

}  // namespace llmft
