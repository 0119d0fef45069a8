#include "llmft/comm/process.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <thread>

#include <mpi.h>
#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/comm/activity.hpp"

namespace llmft {

namespace {

// Open MPI 4 prefers its 'rdma' one-sided component over TCP between nodes, where making a window then fails
// (MPI_ERR_WIN); without it 'pt2pt' serves, or 'ucx' and 'sm' where they fit. Open MPI 5 has no 'pt2pt'.
void choose_one_sided_component() {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(version, &length);
  if (std::string_view(version).starts_with("Open MPI v4.")) ::setenv("OMPI_MCA_osc", "^rdma", 0);
}

// A process that no launcher started has nobody to talk to: without the search for networks and without a
// daemon of its own MPI starts in a third of the time.
void stay_alone_if_alone() {
  for (const char* launched : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMIX_NAMESPACE", "PMI_RANK", "PMI_FD"})
    if (std::getenv(launched) != nullptr) return;
  ::setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
  ::setenv("OMPI_MCA_pml", "ob1", 0);
  ::setenv("OMPI_MCA_btl", "self", 0);
}

}  // namespace

Process::Process(int* argc, char*** argv) {
  stay_alone_if_alone();
  choose_one_sided_component();
  int provided = 0;  // other threads of ours do not call MPI
  MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  MPI_Comm node;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node);
  MPI_Comm_rank(node, &local_rank_);
  MPI_Comm_size(node, &local_size_);
  MPI_Allreduce(&rank_, &node_first_rank_, 1, MPI_INT, MPI_MIN, node);
  MPI_Comm_free(&node);
}

Process::~Process() {
  MPI_Finalize();
}

std::string Process::host() const {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

void Process::barrier() const {
  Activity::Waiting waiting("barrier", 0);
  MPI_Barrier(MPI_COMM_WORLD);
}

void Process::all_reduce_sum(std::span<double> values) const {
  Activity::Waiting waiting("sum of host values", values.size_bytes());
  MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_SUM,
                MPI_COMM_WORLD);
}
void Process::all_reduce_sum(std::span<int64_t> values) const {
  Activity::Waiting waiting("sum of host values", values.size_bytes());
  MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_INT64_T, MPI_SUM,
                MPI_COMM_WORLD);
}
void Process::all_reduce_max(std::span<double> values) const {
  Activity::Waiting waiting("maximum of host values", values.size_bytes());
  MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_MAX,
                MPI_COMM_WORLD);
}

bool Process::all_agree(bool value) const {
  Activity::Waiting waiting("agreement", 0);
  int mine = value ? 1 : 0;
  int all = 0;
  MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
  return all != 0;
}

std::string Process::broadcast(const std::string& text, int root) const {
  Activity::Waiting waiting("broadcast of host text", 0);
  uint64_t length = text.size();
  MPI_Bcast(&length, 1, MPI_UINT64_T, root, MPI_COMM_WORLD);
  std::string out = rank_ == root ? text : std::string(length, '\0');
  // MPI counts are ints: pieces of 1 GiB
  for (uint64_t at = 0; at < length;) {
    uint64_t piece = std::min<uint64_t>(length - at, uint64_t{1} << 30);
    MPI_Bcast(out.data() + at, static_cast<int>(piece), MPI_CHAR, root, MPI_COMM_WORLD);
    at += piece;
  }
  return out;
}

std::vector<std::string> Process::all_gather(const std::string& text) const {
  std::vector<std::string> out;
  out.reserve(static_cast<size_t>(size_));
  for (int root = 0; root < size_; ++root) out.push_back(broadcast(text, root));
  return out;
}

std::vector<uint64_t> Process::all_gather(std::span<const uint64_t> values) const {
  Activity::Waiting waiting("all_gather of host values", 0);
  int mine = static_cast<int>(values.size());
  std::vector<int> counts(static_cast<size_t>(size_));
  MPI_Allgather(&mine, 1, MPI_INT, counts.data(), 1, MPI_INT, MPI_COMM_WORLD);
  std::vector<int> starts(counts.size());
  int total = 0;
  for (size_t i = 0; i < counts.size(); ++i) starts[i] = total, total += counts[i];
  std::vector<uint64_t> out(static_cast<size_t>(total));
  MPI_Allgatherv(values.data(), mine, MPI_UINT64_T, out.data(), counts.data(), starts.data(), MPI_UINT64_T,
                 MPI_COMM_WORLD);
  return out;
}

bool Process::speaks_for_failed_ranks() const {
  constexpr int tag = 31337;  // of a message that nobody receives: seeing it is enough
  using std::chrono::milliseconds;
  auto heard_within = [](milliseconds wait) {
    auto end = std::chrono::steady_clock::now() + wait;
    int heard = 0;
    do {
      MPI_Iprobe(MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, &heard, MPI_STATUS_IGNORE);
      if (heard == 0) std::this_thread::sleep_for(milliseconds(1));
    } while (heard == 0 && std::chrono::steady_clock::now() < end);
    return heard != 0;
  };
  if (heard_within(is_root() ? milliseconds(2) : milliseconds(300 + 10 * std::min(rank_, 100)))) return false;
  for (int r = 0; r < size_; ++r) {
    if (r == rank_) continue;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(nullptr, 0, MPI_BYTE, r, tag, MPI_COMM_WORLD, &request);
    MPI_Request_free(&request);
  }
  return true;
}

void Process::abort(int exit_code) const {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

struct SharedCounter::State {
  MPI_Win window = MPI_WIN_NULL;
  uint64_t* values = nullptr;
  int exceptions = std::uncaught_exceptions();
};

SharedCounter::SharedCounter(const Process& process, size_t counters) : state_(std::make_unique<State>()) {
  size_t here = process.is_root() ? counters : 0;
  MPI_Win_allocate(static_cast<MPI_Aint>(here * sizeof(uint64_t)), sizeof(uint64_t), MPI_INFO_NULL,
                   MPI_COMM_WORLD, &state_->values, &state_->window);
  MPI_Win_lock_all(0, state_->window);
  uint64_t zero = 0;
  for (size_t i = 0; i < here; ++i)
    MPI_Accumulate(&zero, 1, MPI_UINT64_T, 0, static_cast<MPI_Aint>(i), 1, MPI_UINT64_T, MPI_REPLACE,
                   state_->window);
  if (here > 0) MPI_Win_flush(0, state_->window);
  MPI_Barrier(MPI_COMM_WORLD);
}

SharedCounter::~SharedCounter() {
  if (std::uncaught_exceptions() > state_->exceptions) return;
  // Rank 0 keeps answering inside the barrier until all have finished claiming.
  MPI_Barrier(MPI_COMM_WORLD);
  MPI_Win_unlock_all(state_->window);
  MPI_Win_free(&state_->window);
}

uint64_t SharedCounter::next(size_t counter) {
  uint64_t one = 1;
  uint64_t claimed = 0;
  MPI_Fetch_and_op(&one, &claimed, MPI_UINT64_T, 0, static_cast<MPI_Aint>(counter), MPI_SUM, state_->window);
  MPI_Win_flush(0, state_->window);
  return claimed;
}

uint64_t SharedCounter::read() {
  uint64_t unused = 0;
  uint64_t value = 0;
  MPI_Fetch_and_op(&unused, &value, MPI_UINT64_T, 0, 0, MPI_NO_OP, state_->window);
  MPI_Win_flush(0, state_->window);
  return value;
}

void SharedCounter::progress() {
  int flag = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
}

}  // namespace llmft
