// Every collective against its definition, on host tensors over MPI and, where there is a GPU for each rank,
// on device tensors over NCCL; of all ranks and of split parts.
#include <vector>

#include <doctest/doctest.h>

#include "llmft/comm/comm.hpp"
#include "llmft/comm/gpu_choice.hpp"
#include "llmft/comm/peer_memory.hpp"
#include "llmft/ops/backend.hpp"
#include "mpi_main.hpp"

using namespace llmft;

namespace {

constexpr int64_t kShard = 1000;

// Small whole numbers: their sums are exact in f32, whatever the order.
float value(int rank, int64_t i) {
  return static_cast<float>((rank + 3) * (i % 101) - 17 * rank);
}

class Collectives {
 public:
  Collectives(Device& device, Comm& comm) : device_(device), comm_(comm) {}

  void run_all() {
    all_reduce<float>(DType::f32);
    all_reduce<double>(DType::f64);
    all_gather();
    all_gather_in_place();
    reduce_scatter();
    all_to_all();
    broadcast();
    many_at_once();
    many_together();
    peer_memory();
  }

 private:
  template <class T>
  Tensor put(Buffer& buffer, DType dtype, const std::vector<T>& values) {
    buffer = Buffer(device_, values.size() * sizeof(T), MemoryPart::workspace);
    device_.copy_to_device(buffer.data(), values.data(), values.size() * sizeof(T));
    return buffer.view(dtype, 1, static_cast<int64_t>(values.size()));
  }
  template <class T>
  std::vector<T> get(const Tensor& x) {
    std::vector<T> out(static_cast<size_t>(x.numel()));
    device_.copy_to_host(out.data(), x.data, x.bytes());
    device_.synchronize();
    return out;
  }
  std::vector<float> mine(int64_t n) {
    std::vector<float> out;
    for (int64_t i = 0; i < n; ++i) out.push_back(value(comm_.rank(), i));
    return out;
  }
  float sum(int64_t i) {
    float total = 0;
    for (int r = 0; r < comm_.size(); ++r) total += value(r, i);
    return total;
  }

  template <class T>
  void all_reduce(DType dtype) {
    std::vector<T> values, expected;
    for (int64_t i = 0; i < kShard; ++i) {
      values.push_back(static_cast<T>(value(comm_.rank(), i)));
      expected.push_back(static_cast<T>(sum(i)));
    }
    Buffer buffer;
    Tensor x = put(buffer, dtype, values);
    comm_.all_reduce(x);
    CHECK(get<T>(x) == expected);
  }
  void all_gather() {
    Buffer from, to;
    Tensor shard = put(from, DType::f32, mine(kShard));
    Tensor full = put(to, DType::f32, std::vector<float>(static_cast<size_t>(kShard * comm_.size())));
    comm_.all_gather(shard, full);
    CHECK(get<float>(full) == gathered());
  }
  void all_gather_in_place() {
    Buffer buffer;
    std::vector<float> start(static_cast<size_t>(kShard * comm_.size()), -1.0f), own = mine(kShard);
    std::copy(own.begin(), own.end(), start.begin() + comm_.rank() * kShard);
    Tensor full = put(buffer, DType::f32, start);
    comm_.all_gather(full.col_range(comm_.rank() * kShard, kShard), full);
    CHECK(get<float>(full) == gathered());
  }
  std::vector<float> gathered() {
    std::vector<float> out;
    for (int r = 0; r < comm_.size(); ++r)
      for (int64_t i = 0; i < kShard; ++i) out.push_back(value(r, i));
    return out;
  }
  void reduce_scatter() {
    Buffer from, to;
    Tensor full = put(from, DType::f32, mine(kShard * comm_.size()));
    Tensor shard = put(to, DType::f32, std::vector<float>(kShard));
    comm_.reduce_scatter(full, shard);
    std::vector<float> expected;
    for (int64_t i = 0; i < kShard; ++i) expected.push_back(sum(comm_.rank() * kShard + i));
    CHECK(get<float>(shard) == expected);
  }
  void all_to_all() {
    Buffer from, to;
    Tensor sent = put(from, DType::f32, mine(kShard * comm_.size()));
    Tensor received = put(to, DType::f32, std::vector<float>(static_cast<size_t>(kShard * comm_.size())));
    comm_.all_to_all(sent, received);
    std::vector<float> expected;
    for (int r = 0; r < comm_.size(); ++r)
      for (int64_t i = 0; i < kShard; ++i) expected.push_back(value(r, comm_.rank() * kShard + i));
    CHECK(get<float>(received) == expected);
  }
  void broadcast() {
    Buffer buffer;
    Tensor x = put(buffer, DType::f32, mine(kShard));
    int root = comm_.size() - 1;
    comm_.broadcast(x, root);
    std::vector<float> expected;
    for (int64_t i = 0; i < kShard; ++i) expected.push_back(value(root, i));
    CHECK(get<float>(x) == expected);
  }
  // More under way than there are events to wait for, waited for from the last to the first.
  void many_at_once() {
    constexpr int kMany = 100;
    std::vector<Buffer> buffers(kMany);
    std::vector<Tensor> tensors;
    std::vector<Started> started;
    for (int k = 0; k < kMany; ++k)
      tensors.push_back(put(buffers[static_cast<size_t>(k)], DType::f32, mine(kShard + k)));
    for (const Tensor& x : tensors) started.push_back(comm_.start_all_reduce(x));
    for (size_t k = kMany; k-- > 0;) {
      comm_.wait(started[k]);
      CHECK(get<float>(tensors[k]).back() == sum(kShard + static_cast<int64_t>(k) - 1));
    }
    comm_.wait(started[0]);
  }

  void many_together() {
    constexpr int64_t kMany = 20;
    std::vector<Buffer> buffers(2 * kMany);
    std::vector<std::pair<Tensor, Tensor>> pairs;
    size_t bytes = 0;
    for (int64_t k = 0; k < kMany; ++k) {
      auto i = static_cast<size_t>(2 * k);
      Tensor full = put(buffers[i], DType::f32, mine((kShard + k) * comm_.size()));
      Tensor shard = put(buffers[i + 1], DType::f32, std::vector<float>(static_cast<size_t>(kShard + k)));
      pairs.emplace_back(full, shard);
      bytes += full.bytes();
    }
    comm_.wait(comm_.start_together("reduce_scatter", bytes, [&] {
      for (auto& [full, shard] : pairs) comm_.start_reduce_scatter(full, shard);
    }));
    comm_.wait(comm_.start_together("all_gather", bytes, [&] {
      for (auto& [full, shard] : pairs) comm_.start_all_gather(shard, full);
    }));
    for (auto& [full, shard] : pairs) {
      CHECK(get<float>(shard).front() == sum(comm_.rank() * shard.numel()));
      CHECK(get<float>(full).back() == sum(full.numel() - 1));
    }
  }
  // Small and large, which lie in allocations of others and of their own; written again between readings.
  void peer_memory() {
    const std::vector<int64_t> sizes = {100, 64, 3 << 20};
    std::vector<Buffer> buffers(2 * sizes.size() + 1);
    std::vector<Tensor> shards, fulls;
    for (size_t i = 0; i < sizes.size(); ++i) {
      shards.push_back(put(buffers[2 * i], DType::f32, std::vector<float>(static_cast<size_t>(sizes[i]))));
      fulls.push_back(put(buffers[2 * i + 1], DType::f32,
                          std::vector<float>(static_cast<size_t>(sizes[i] * comm_.size()))));
    }
    Tensor mark = put(buffers.back(), DType::f32, std::vector<float>(1));
    std::unique_ptr<PeerMemory> memory = comm_.share(shards);
    if (memory == nullptr) {
      if (comm_.size() > 1) MESSAGE("the ranks cannot read each other's memory");
      return;
    }
    for (int round = 0; round < 5; ++round) {
      for (Tensor& shard : shards) {
        std::vector<float> values = mine(shard.numel());
        for (float& v : values) v += static_cast<float>(round);
        device_.copy_to_device(shard.data, values.data(), shard.bytes());
        device_.synchronize();
      }
      memory->after(comm_.start_all_reduce(mark));
      Started first = memory->start_gather(2, fulls[2]);
      memory->start_gather(0, fulls[0]);
      memory->start_gather(1, fulls[1]);
      memory->wait(first);
      memory->wait_all();
      for (size_t i = 0; i < sizes.size(); ++i) {
        std::vector<float> got = get<float>(fulls[i]);
        int64_t wrong = 0;
        for (int64_t at = 0; at < fulls[i].numel(); ++at)
          wrong += got[static_cast<size_t>(at)] !=
                   value(static_cast<int>(at / sizes[i]), at % sizes[i]) + static_cast<float>(round);
        CHECK(wrong == 0);
      }
      comm_.all_reduce(mark);
      device_.synchronize();
    }
  }

  Device& device_;
  Comm& comm_;
};

void check_device(Device& device) {
  const Process& process = test_process();
  std::unique_ptr<Comm> comm = make_comm(process, device);
  CHECK(comm->rank() == process.rank());
  CHECK(comm->size() == process.size());
  Collectives(device, *comm).run_all();
  std::unique_ptr<Comm> halves = comm->split(process.rank() % 2);
  CHECK(halves->size() == (process.size() + 1 - process.rank() % 2) / 2);
  CHECK(halves->rank() == process.rank() / 2);
  Collectives(device, *halves).run_all();
  Comm::Exposed exposed = comm->exposed();
  if (process.size() > 1) CHECK(exposed.waits > 0);
  CHECK(exposed.seconds >= 0);
}

}  // namespace

TEST_CASE("collectives of host tensors") {
  auto device = make_cpu_device();
  check_device(*device);
}

TEST_CASE("collectives of device tensors") {
  const Process& process = test_process();
  if (!process.all_agree(cuda_device_count() > 0) || cuda_device_count() < process.local_size()) {
    MESSAGE("skipped: no GPU for every rank");
    return;
  }
  auto device = make_cuda_device(gpu_of_rank(process));
  check_device(*device);
}
