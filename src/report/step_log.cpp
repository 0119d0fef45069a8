#include "llmft/report/step_log.hpp"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"
#include "llmft/report/csv.hpp"

namespace llmft {
namespace {

std::vector<CsvColumn> columns(const StepRow& row) {
  return {{"step", std::to_string(row.step)},
          {"epoch", number(row.epoch)},
          {"loss", number(row.loss)},
          {"lr", number(row.lr)},
          {"grad_norm", number(row.grad_norm)},
          {"tokens_per_s", number(row.tokens_per_s)},
          {"supervised_tokens_per_s", number(row.supervised_tokens_per_s)},
          {"tokens", std::to_string(row.tokens)},
          {"supervised_tokens", std::to_string(row.supervised_tokens)},
          {"step_time_s", number(row.step_time_s)},
          {"data_wait_s", number(row.data_wait_s)},
          {"imbalance", number(row.imbalance)},
          {"loss_scale", csv_number(row.loss_scale)},
          {"skipped", row.skipped ? "1" : "0"},
          {"mfu", csv_number(row.mfu)},
          {"valid_loss", csv_number(row.valid_loss)}};
}
constexpr size_t kLossColumn = 2;

std::string header_line() {
  return csv_header(columns({})) + "\n";
}

struct Kept {
  std::string text;
  std::optional<double> first_loss;
};

// The table up to last_step. Rows are in the order of steps; what follows the last line end is torn.
Kept keep_rows(const std::filesystem::path& path, const std::string& table, int64_t last_step) {
  std::string header = header_line();
  if (!table.starts_with(header))
    user_error(
        "{}: is not the steps table of this version (its first line differs); move it away, or train into "
        "another "
        "output folder",
        path.string());
  Kept kept{header, std::nullopt};
  size_t line = 1;
  for (size_t at = header.size(), end = 0; (end = table.find('\n', at)) != std::string::npos; at = end + 1) {
    ++line;
    std::vector<std::string> fields = split(std::string_view(table).substr(at, end - at), ',');
    std::optional<int64_t> step = parse_int(fields[0]);
    if (!step || fields.size() != columns({}).size())
      user_error(
          "{}:{}: is not a row of the steps table (the file was changed or damaged); mend or remove it",
          path.string(), line);
    if (*step > last_step) break;
    if (!kept.first_loss) kept.first_loss = parse_double(fields[kLossColumn]);
    kept.text.append(table, at, end + 1 - at);
  }
  return kept;
}

}  // namespace

StepLog::StepLog(const std::filesystem::path& path, std::optional<int64_t> last_step) : path_(path) {
  if (last_step && std::filesystem::exists(path)) {
    std::string table = read_file(path);
    Kept kept = table.empty() ? Kept{header_line(), std::nullopt} : keep_rows(path, table, *last_step);
    first_loss_ = kept.first_loss;
    if (kept.text != table) write_file_atomic(path, kept.text);
  } else {
    write_file_atomic(path, header_line());
  }
  fd_ = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd_ < 0)
    user_error("{}: cannot open for writing ({}); check its permissions", path.string(),
               std::strerror(errno));
}

StepLog::~StepLog() {
  if (fd_ >= 0) ::close(fd_);
}

void StepLog::append(const StepRow& row) {
  if (!first_loss_) first_loss_ = row.loss;
  std::string line = csv_row(columns(row)) + "\n";
  for (std::string_view left = line; !left.empty();) {
    ssize_t written = ::write(fd_, left.data(), left.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      user_error("{}: cannot write ({}); free space, then go on with --resume", path_.string(),
                 std::strerror(errno));
    left.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace llmft
