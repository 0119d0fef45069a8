#include "gemm_choices.hpp"

#include <sstream>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"

namespace llmft {
namespace {

constexpr const char* kTitle = "llmft matrix product algorithms, version 1";
constexpr double kWriteInterval = 2;  // seconds: a first step adds dozens

}  // namespace

GemmChoices::GemmChoices(std::filesystem::path path, std::string machine)
    : path_(std::move(path)), machine_(std::move(machine)), table_(read()) {}

GemmChoices::~GemmChoices() {
  if (!added_.empty()) write();
}

std::optional<GemmAlgorithm> GemmChoices::find(const GemmKey& key) const {
  auto found = table_.find(key);
  if (found == table_.end()) return std::nullopt;
  return found->second;
}

void GemmChoices::add(const GemmKey& key, const GemmAlgorithm& algorithm, bool keep_in_file) {
  table_[key] = algorithm;
  if (!keep_in_file || path_.empty()) return;
  added_[key] = algorithm;
  if (since_write_.seconds() >= kWriteInterval) write();
}

GemmChoices::Table GemmChoices::read() const {
  Table table;
  if (path_.empty() || !std::filesystem::exists(path_)) return table;
  std::string content;
  try {
    content = read_file(path_);
  } catch (const UserError& e) {
    log::warn("{}; algorithms are timed anew", e.what());
    return table;
  }
  std::istringstream lines(content);
  std::string title, machine, line;
  std::getline(lines, title);
  std::getline(lines, machine);
  if (title != kTitle || machine != machine_) return table;
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    GemmKey key{};
    GemmAlgorithm algorithm{};
    for (int64_t& field : key) fields >> field;
    for (uint64_t& word : algorithm) fields >> std::hex >> word;
    if (fields) table[key] = algorithm;
  }
  return table;
}

void GemmChoices::write() {
  Table all = read();
  for (const auto& [key, algorithm] : added_) all[key] = algorithm;
  added_.clear();
  since_write_.reset();
  std::string content = fmt::format("{}\n{}\n", kTitle, machine_);
  for (const auto& [key, algorithm] : all) {
    for (int64_t field : key) content += fmt::format("{} ", field);
    for (uint64_t word : algorithm) content += fmt::format(" {:x}", word);
    content += '\n';
  }
  try {
    if (path_.has_parent_path()) std::filesystem::create_directories(path_.parent_path());
    write_file_atomic(path_, content);
  } catch (const std::exception& e) {
    log::warn("{}; algorithms of matrix products will be timed again next time", e.what());
    path_.clear();
  }
}

}  // namespace llmft
