// NCCL behind Comm. One stream (line.hpp) and one communicator, so collectives run in the order of the calls,
// which is the same on all ranks.
#include <cstdlib>
#include <exception>
#include <thread>
#include <utility>

#include <mpi.h>

#include "line.hpp"
#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"
#include "llmft/comm/comm.hpp"
#include "nccl_api.hpp"
#include "peer_copies.hpp"

namespace llmft {
namespace {

constexpr double kConnectSeconds = 120;

ncclDataType_t nccl_type(DType type) {
  return type == DType::f64 ? ncclFloat64 : ncclFloat32;
}

class NcclComm final : public Comm {
 public:
  NcclComm(std::shared_ptr<Line> line, MPI_Comm ranks) : line_(std::move(line)), mpi_(ranks) {
    MPI_Comm_rank(mpi_, &rank_);
    MPI_Comm_size(mpi_, &size_);
    connect();
  }

  // A rank that unwinds from an error must not wait for the others, neither in NCCL nor in MPI.
  ~NcclComm() override {
    if (std::uncaught_exceptions() > 0) {
      if (comm_ != nullptr) nccl().CommAbort(comm_);
      return;
    }
    cudaStreamSynchronize(line_->stream());
    nccl().CommFinalize(comm_);
    ncclResult_t state = ncclInProgress;
    while (nccl().CommGetAsyncError(comm_, &state) == ncclSuccess && state == ncclInProgress)
      std::this_thread::yield();
    nccl().CommDestroy(comm_);
    MPI_Comm_free(&mpi_);
  }
  NcclComm(const NcclComm&) = delete;
  NcclComm& operator=(const NcclComm&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Started start_all_reduce(const Tensor& x) override {
    check(x.contiguous() && (x.dtype == DType::f32 || x.dtype == DType::f64),
          "only flat f32 and f64 are reduced");
    return run("all_reduce", x.bytes(), [&](cudaStream_t stream) {
      return nccl().AllReduce(x.data, x.data, static_cast<size_t>(x.numel()), nccl_type(x.dtype), ncclSum,
                              comm_, stream);
    });
  }
  Started start_all_gather(const Tensor& shard, const Tensor& full) override {
    check(shard.contiguous() && full.contiguous() && shard.dtype == full.dtype &&
              shard.numel() * size_ == full.numel(),
          "all_gather sizes differ");
    return run("all_gather", full.bytes(), [&](cudaStream_t stream) {
      return nccl().AllGather(shard.data, full.data, shard.bytes(), ncclUint8, comm_, stream);
    });
  }
  Started start_reduce_scatter(const Tensor& full, const Tensor& shard) override {
    check(full.contiguous() && shard.contiguous() && full.dtype == DType::f32 && shard.dtype == DType::f32 &&
              shard.numel() * size_ == full.numel(),
          "reduce_scatter sizes differ");
    return run("reduce_scatter", full.bytes(), [&](cudaStream_t stream) {
      return nccl().ReduceScatter(full.data, shard.data, static_cast<size_t>(shard.numel()), ncclFloat32,
                                  ncclSum, comm_, stream);
    });
  }
  Started start_all_to_all(const Tensor& sent, const Tensor& received) override {
    check(sent.contiguous() && received.contiguous() && sent.dtype == received.dtype &&
              sent.numel() == received.numel() && sent.numel() % size_ == 0,
          "all_to_all sizes differ");
    size_t piece = sent.bytes() / static_cast<size_t>(size_);
    return run("all_to_all", sent.bytes(), [&](cudaStream_t stream) {
      const NcclApi& api = nccl();
      ncclResult_t result = api.GroupStart();
      for (int r = 0; r < size_; ++r) {
        size_t at = static_cast<size_t>(r) * piece;
        auto ok = [&] { return result == ncclSuccess || result == ncclInProgress; };
        if (ok())
          result = api.Send(static_cast<std::byte*>(sent.data) + at, piece, ncclUint8, r, comm_, stream);
        if (ok())
          result = api.Recv(static_cast<std::byte*>(received.data) + at, piece, ncclUint8, r, comm_, stream);
      }
      ncclResult_t end = api.GroupEnd();
      return result == ncclSuccess || result == ncclInProgress ? end : result;
    });
  }
  Started start_broadcast(const Tensor& x, int root) override {
    check(x.contiguous(), "broadcast of a strided tensor");
    return run("broadcast", x.bytes(), [&](cudaStream_t stream) {
      return nccl().Broadcast(x.data, x.data, x.bytes(), ncclUint8, root, comm_, stream);
    });
  }

  Started start_together(const char* name, size_t bytes, const std::function<void()>& start) override {
    Started all = run(name, bytes, [&](cudaStream_t) {
      ncclResult_t begun = nccl().GroupStart();
      grouping_ = true;
      if (begun == ncclSuccess) start();
      grouping_ = false;
      ncclResult_t ended = nccl().GroupEnd();
      return begun == ncclSuccess ? ended : begun;
    });
    return all;
  }

  void wait(Started collective) override { line_->wait(collective); }

  void all_reduce_host(std::span<double> values) override {
    MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_SUM, mpi_);
  }

  Exposed exposed() override { return line_->exposed(); }

  std::unique_ptr<Comm> split(int colour) override {
    MPI_Comm part = MPI_COMM_NULL;
    MPI_Comm_split(mpi_, colour, rank_, &part);
    return std::make_unique<NcclComm>(line_, part);
  }

  std::unique_ptr<PeerMemory> share(const std::vector<Tensor>& shards) override {
    return share_by_copies(*line_, mpi_, shards);
  }

 private:
  // Non-blocking: a rank that never comes is an error with a name here, not a hang.
  void connect() {
    ncclUniqueId id{};
    const NcclApi& api = nccl();
    if (rank_ == 0) check_result(api.GetUniqueId(&id));
    MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, mpi_);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    check_result(api.CommInitRankConfig(&comm_, size_, id, rank_, &config));
    Stopwatch watch;
    while (state() == ncclInProgress) {
      if (watch.seconds() > kConnectSeconds) {
        api.CommAbort(std::exchange(comm_, nullptr));
        user_error(
            "NCCL: rank {} of {} could not connect to the others within {:.0f} s; run with NCCL_DEBUG=INFO "
            "to see "
            "which network it tries (NCCL_SOCKET_IFNAME, NCCL_IB_HCA choose one)",
            rank_, size_, kConnectSeconds);
      }
      std::this_thread::yield();
    }
  }

  // The communicator's own state; an error there is one of the network or of another rank.
  ncclResult_t state() {
    ncclResult_t result = ncclSuccess;
    check_result(nccl().CommGetAsyncError(comm_, &result));
    if (result != ncclInProgress) check_result(result);
    return result;
  }

  void check_result(ncclResult_t result) {
    if (result == ncclSuccess || result == ncclInProgress) return;
    std::string reason = nccl().GetErrorString(result);
    const char* detail = comm_ == nullptr ? nullptr : nccl().GetLastError(comm_);
    if (detail != nullptr && *detail != '\0') reason += fmt::format(": {}", detail);
    if (comm_ != nullptr) nccl().CommAbort(std::exchange(comm_, nullptr));
    if (result == ncclInvalidArgument || result == ncclInvalidUsage) internal_error("NCCL: " + reason);
    user_error("NCCL: rank {} of {}: {}; look at this node's GPUs and network, or run with NCCL_DEBUG=INFO",
               rank_, size_, reason);
  }

  template <class Call>
  Started run(const char* name, size_t bytes, Call&& call) {
    check(comm_ != nullptr, "a collective after NCCL has failed");
    if (grouping_) {
      check_result(call(line_->stream()));
      return {};
    }
    line_->begin(name, bytes);
    check_result(call(line_->stream()));
    while (state() == ncclInProgress) std::this_thread::yield();
    return line_->end(name, bytes);
  }

  std::shared_ptr<Line> line_;
  MPI_Comm mpi_;
  int rank_ = 0;
  int size_ = 1;
  bool grouping_ = false;
  ncclComm_t comm_ = nullptr;
};

}  // namespace

std::unique_ptr<Comm> make_comm(const Process& process, Device& device) {
  if (process.size() == 1) return make_self_comm(device);
  if (device.kind() == DeviceKind::cpu) return make_host_comm(process);
  auto* cuda = dynamic_cast<CudaDevice*>(&device);
  check(cuda != nullptr, "a GPU of another kind");
  MPI_Comm ranks = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &ranks);
  return std::make_unique<NcclComm>(std::make_shared<Line>(*cuda), ranks);
}

std::string nccl_version() {
  try {
    int version = 0;
    nccl().GetVersion(&version);
    return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  } catch (const UserError& e) {
    return e.what();
  }
}

}  // namespace llmft
