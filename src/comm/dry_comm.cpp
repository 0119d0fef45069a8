// One rank of so many that are not there.
#include <utility>
#include <vector>

#include "llmft/base/error.hpp"
#include "llmft/comm/comm.hpp"

namespace llmft {
namespace {

class DryComm final : public Comm {
 public:
  DryComm(int rank, int size, std::vector<int> split_sizes)
      : rank_(rank), size_(size), split_sizes_(std::move(split_sizes)) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Started start_all_reduce(const Tensor&) override { return {}; }
  Started start_all_gather(const Tensor&, const Tensor&) override { return {}; }
  Started start_reduce_scatter(const Tensor&, const Tensor&) override { return {}; }
  Started start_all_to_all(const Tensor&, const Tensor&) override { return {}; }
  Started start_broadcast(const Tensor&, int) override { return {}; }
  void wait(Started) override {}
  void all_reduce_host(std::span<double>) override {}
  Exposed exposed() override { return {}; }
  std::unique_ptr<Comm> split(int) override {
    check(splits_ < split_sizes_.size(), "a dry Comm is split more often than was said");
    return std::make_unique<DryComm>(0, split_sizes_[splits_++], std::vector<int>());
  }

 private:
  int rank_;
  int size_;
  std::vector<int> split_sizes_;
  size_t splits_ = 0;
};

}  // namespace

std::unique_ptr<Comm> make_dry_comm(int rank, int size, std::vector<int> split_sizes) {
  return std::make_unique<DryComm>(rank, size, std::move(split_sizes));
}

}  // namespace llmft
