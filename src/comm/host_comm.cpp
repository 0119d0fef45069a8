#include <cstring>
#include <exception>
#include <limits>

#include <mpi.h>

#include "llmft/comm/comm.hpp"

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
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(const Tensor&) override {}
  void all_gather(const Tensor& shard, const Tensor& full) override { same(shard, full); }
  void reduce_scatter(const Tensor& full, const Tensor& shard) override { same(full, shard); }
  void all_to_all(const Tensor& sent, const Tensor& received) override { same(sent, received); }
  void broadcast(const Tensor&, int) override {}
  void all_reduce_host(std::span<double>) override {}

 private:
  static void same(const Tensor& from, const Tensor& to) {
    check(count_of(from) == count_of(to), "collective sizes differ");
    if (from.data != to.data) std::memcpy(to.data, from.data, from.bytes());
  }
};

class MpiComm final : public Comm {
 public:
  MpiComm() {
    MPI_Comm_dup(MPI_COMM_WORLD, &comm_);
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

  void all_reduce(const Tensor& x) override {
    check(x.dtype == DType::f32 || x.dtype == DType::f64, "only f32 and f64 are reduced");
    MPI_Allreduce(MPI_IN_PLACE, x.data, count_of(x), type_of(x), MPI_SUM, comm_);
  }
  void all_gather(const Tensor& shard, const Tensor& full) override {
    check(shard.dtype == full.dtype && shard.numel() * size_ == full.numel(), "all_gather sizes differ");
    bool in_place = shard.data == full.col_range(rank_ * shard.numel(), shard.numel()).data;
    MPI_Allgather(in_place ? MPI_IN_PLACE : shard.data, count_of(shard), type_of(shard), full.data,
                  count_of(shard), type_of(full), comm_);
  }
  void reduce_scatter(const Tensor& full, const Tensor& shard) override {
    check(full.dtype == DType::f32 && shard.dtype == DType::f32 && shard.numel() * size_ == full.numel(),
          "reduce_scatter sizes differ");
    MPI_Reduce_scatter_block(full.data, shard.data, count_of(shard), MPI_FLOAT, MPI_SUM, comm_);
  }
  void all_to_all(const Tensor& sent, const Tensor& received) override {
    check(sent.dtype == received.dtype && sent.numel() == received.numel() && sent.numel() % size_ == 0,
          "all_to_all sizes differ");
    int piece = count_of(sent) / size_;
    MPI_Alltoall(sent.data, piece, type_of(sent), received.data, piece, type_of(received), comm_);
  }
  void all_reduce_host(std::span<double> values) override {
    MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_SUM, comm_);
  }
  void broadcast(const Tensor& x, int root) override {
    MPI_Bcast(x.data, count_of(x), type_of(x), root, comm_);
  }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

std::unique_ptr<Comm> make_self_comm() {
  return std::make_unique<SelfComm>();
}

std::unique_ptr<Comm> make_host_comm(const Process& process) {
  if (process.size() == 1) return make_self_comm();
  return std::make_unique<MpiComm>();
}

}  // namespace llmft
