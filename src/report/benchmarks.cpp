// Rows stay whole because each is one write to a file opened with O_APPEND; the lock is for network file
// systems, where O_APPEND alone does not order writers of several nodes, and for the look at the file's end
// that precedes the write. A table of fewer columns is replaced by a wider one while the lock of the old file
// is held, so whoever waited for that lock must look whether the file is still the one of that name.
#include "llmft/report/benchmarks.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"
#include "llmft/report/csv.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

constexpr double kLockSeconds = 30;
constexpr size_t kFirstColumns = 32;  // of the first version's tables

template <class Integer>
std::string csv_count(const std::optional<Integer>& value) {
  return value ? std::to_string(*value) : "";
}

std::vector<CsvColumn> columns(const BenchmarkRow& row) {
  return {{"time_utc", row.time_utc},
          {"run", row.run},
          {"host", row.host},
          {"device", row.device},
          {"version", row.version},
          {"command", row.command},
          {"precision", row.precision},
          {"strategy", row.strategy},
          {"mode", row.mode},
          {"adapter_rank", csv_count(row.adapter_rank)},
          {"model", row.model},
          {"data", row.data},
          {"ranks", std::to_string(row.ranks)},
          {"nodes", std::to_string(row.nodes)},
          {"pack_tokens", csv_count(row.pack_tokens)},
          {"batch_packs", csv_count(row.batch_packs)},
          {"steps", csv_count(row.steps)},
          {"samples", csv_count(row.samples)},
          {"tokens", csv_count(row.tokens)},
          {"supervised_tokens", csv_count(row.supervised_tokens)},
          {"samples_per_s", csv_number(row.samples_per_s)},
          {"tokens_per_s", csv_number(row.tokens_per_s)},
          {"supervised_tokens_per_s", csv_number(row.supervised_tokens_per_s)},
          {"step_time_median_s", csv_number(row.step_time_median_s)},
          {"epoch_time_s", csv_number(row.epoch_time_s)},
          {"training_time_s", csv_number(row.training_time_s)},
          {"peak_memory_bytes", csv_count(row.peak_memory_bytes)},
          {"mfu", csv_number(row.mfu)},
          {"loss_first", csv_number(row.loss_first)},
          {"loss_last", csv_number(row.loss_last)},
          {"valid_loss", csv_number(row.valid_loss)},
          {"config_hash", row.config_hash},
          {"machine", row.machine},
          {"versions", row.versions},
          {"adapter_alpha", csv_number(row.adapter_alpha)},
          {"sample_length_mean", csv_number(row.sample_length_mean)},
          {"max_length", csv_count(row.max_length)},
          {"padded_tokens_per_s", csv_number(row.padded_tokens_per_s)},
          {"joules_per_token", csv_number(row.joules_per_token)},
          {"vocab_size", csv_count(row.vocab_size)},
          {"perplexity", csv_number(row.perplexity)},
          {"bleu", csv_number(row.bleu)},
          {"rouge_l", csv_number(row.rouge_l)}};
}

[[noreturn]] void fail(const fs::path& path, const char* action) {
  user_error("{}: cannot {} ({}); the run itself is whole in its own folder", path.string(), action,
             std::strerror(errno));
}

// The file, open for appending, locked where the file system has locks.
class LockedTable {
 public:
  explicit LockedTable(const fs::path& path)
      : path_(path), fd_(::open(path.c_str(), O_RDWR | O_APPEND | O_CLOEXEC)) {
    if (fd_ < 0) fail(path_, "open");
    Stopwatch waited;
    while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) return;  // no locks here
      if (waited.seconds() > kLockSeconds) {
        log::warn("{}: another process has held its lock for {} s; writing without it", path_.string(),
                  kLockSeconds);
        return;
      }
      ::usleep(10'000);
    }
  }
  ~LockedTable() { ::close(fd_); }  // and lets go of the lock
  LockedTable(const LockedTable&) = delete;
  LockedTable& operator=(const LockedTable&) = delete;

  // False: another process has replaced the file since it was opened.
  bool is_the_file() const {
    struct stat mine {
    }, named{};
    if (::fstat(fd_, &mine) != 0 || ::stat(path_.c_str(), &named) != 0) return false;
    return mine.st_ino == named.st_ino && mine.st_dev == named.st_dev;
  }

  // Without its end; none in an empty file.
  std::optional<std::string> first_line() const {
    std::array<char, 8192> start;
    ssize_t got = ::pread(fd_, start.data(), start.size(), 0);
    if (got < 0) fail(path_, "read");
    if (got == 0) return std::nullopt;
    std::string_view text(start.data(), static_cast<size_t>(got));
    return std::string(trim(text.substr(0, text.find('\n'))));
  }

  // A file that an editor left without a last line end, or that a full disk cut.
  bool ends_inside_a_line() const {
    struct stat info {};
    if (::fstat(fd_, &info) != 0) fail(path_, "read");
    char last = '\n';
    if (info.st_size > 0 && ::pread(fd_, &last, 1, info.st_size - 1) != 1) fail(path_, "read");
    return last != '\n';
  }

  void append(const std::string& text) const {
    ssize_t written = 0;
    do written = ::write(fd_, text.data(), text.size());
    while (written < 0 && errno == EINTR);
    if (written < 0) fail(path_, "write");
    if (static_cast<size_t>(written) != text.size()) {
      errno = ENOSPC;
      fail(path_, "write the whole row");
    }
  }

 private:
  fs::path path_;
  int fd_;
};

// A file that appears has its header: it is written under another name first, and link() does not replace.
void make_table(const fs::path& path, const std::string& header) {
  if (!path.parent_path().empty()) make_writable_folder(path.parent_path());
  fs::path temporary = path.string() + ".new." + std::to_string(::getpid());
  write_file_atomic(temporary, header + "\n");
  bool failed = ::link(temporary.c_str(), path.c_str()) != 0 && errno != EEXIST;
  if (failed && !fs::exists(path))
    commit_file(temporary, path);  // a file system without hard links
  else
    ::unlink(temporary.c_str());
}

size_t columns_in(std::string_view header) {
  return 1 + static_cast<size_t>(std::count(header.begin(), header.end(), ','));
}

// The table of a version that had fewer columns.
bool is_older(const std::string& first_line, const std::string& header) {
  return columns_in(first_line) >= kFirstColumns && header.starts_with(first_line + ",");
}

// Every record with so many empty fields more; the text then ends with a line end.
std::string with_more_columns(const std::string& table, size_t more) {
  std::string out, ending = std::string(more, ',') + "\n";
  bool quoted = false, inside = false;
  for (char c : table) {
    if (c == '"') quoted = !quoted;
    if (c != '\n' || quoted) {
      if (c == '\r' && !quoted) continue;
      out += c;
      inside = true;
    } else if (inside) {
      out += ending;
      inside = false;
    }
  }
  if (inside) out += ending;
  return out;
}

// A header that is neither this version's nor an older one's.
void check_columns(const fs::path& path, const std::string& first_line, const std::string& header) {
  if (first_line == header || is_older(first_line, header)) return;
  user_error(
      "{}: has other columns (it begins '{}'), so no row can be added; move it away or name another table",
      path.string(), first_line.substr(0, 80));
}

}  // namespace

std::string benchmark_header() {
  return csv_header(columns({}));
}

std::string to_csv(const BenchmarkRow& row) {
  return csv_row(columns(row));
}

void append_benchmark(const fs::path& path, const BenchmarkRow& row) {
  std::string header = benchmark_header();
  if (!fs::exists(path)) make_table(path, header);
  std::optional<LockedTable> opened;
  do opened.emplace(path);
  while (!opened->is_the_file());
  std::optional<std::string> first = opened->first_line();
  if (first) check_columns(path, *first, header);
  if (first && is_older(*first, header)) {
    std::string wider = with_more_columns(read_file(path), columns_in(header) - columns_in(*first));
    write_file_atomic(path, header + wider.substr(wider.find('\n')) + to_csv(row) + "\n");
    return;
  }
  const LockedTable& table = *opened;
  std::string prefix;
  if (!first) {
    prefix = header + "\n";
  } else if (table.ends_inside_a_line()) {
    prefix = "\n";
  }
  table.append(prefix + to_csv(row) + "\n");
}

void check_benchmark_table(const fs::path& path) {
  if (!path.parent_path().empty()) make_writable_folder(path.parent_path());
  if (!fs::exists(path)) return;
  if (auto first = LockedTable(path).first_line()) check_columns(path, *first, benchmark_header());
}

}  // namespace llmft
