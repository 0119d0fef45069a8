#include <algorithm>
#include <array>
#include <limits>

#include <nlohmann/json.hpp>

#include "line_stream.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"
#include "readers.hpp"

namespace llmft {
namespace {

// Plain files are cut here so that several ranks share a large one; compressed ones cannot be.
constexpr uint64_t kPieceBytes = uint64_t{16} << 20;
constexpr size_t kLongestReason = 160;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

class JsonlReader : public RowReader {
 public:
  JsonlReader(const SourceFile& file, const SourcePiece& piece)
      : file_(file), lines_(file, piece.begin, piece.end) {}

  bool next(Row& row) override {
    std::string_view line;
    if (!next_line(line)) return false;
    if (valid_utf8_prefix(line) != line.size()) {
      row = {.question = line};
      return true;
    }
    try {
      object_ = nlohmann::json::parse(line);
    } catch (const nlohmann::json::parse_error& e) {
      std::string reason = e.what();
      // Half a surrogate pair (Python's json writes them) is JSON, but no text that UTF-8 could hold.
      if (reason.find("surrogate") != std::string::npos) {
        half_pair_.assign(line);
        half_pair_ += '\xED';
        row = {.question = half_pair_};
        return true;
      }
      size_t detail = reason.find("while parsing");
      refuse(
          fmt::format("not valid JSON ({})", detail == std::string::npos ? reason : reason.substr(detail)));
    }
    if (!object_.is_object()) refuse(fmt::format("is {}, a JSON object is needed", object_.type_name()));
    row.id = {};
    if (auto id = object_.find("id"); id != object_.end() && id->is_string())
      row.id = id->get_ref<const std::string&>();
    row.system_prompt = field("system_prompt");
    row.question = field("question");
    row.response = field("response");
    return true;
  }

  void skip(uint64_t rows) override {
    std::string_view line;
    while (rows > 0 && next_line(line)) --rows;
  }

 private:
  // Blank lines are no rows.
  bool next_line(std::string_view& line) {
    while (lines_.next(line)) {
      if (lines_.line_begin() == 0 && line.starts_with(kByteOrderMark))
        line.remove_prefix(kByteOrderMark.size());
      if (line.find_first_not_of(" \t\r") != std::string_view::npos) return true;
    }
    return false;
  }

  std::string where() const {
    return fmt::format("{}:{}", file_.path.string(), line_number(file_, lines_.line_begin()));
  }

  [[noreturn]] void refuse(const std::string& what) {
    std::string place = where();
    // Damaged compressed data can look like text until its checksum comes; then the damage is what to report.
    std::string_view rest;
    if (file_.format != SourceFormat::jsonl)
      while (lines_.next(rest)) continue;
    user_error("{}: {}; correct or remove the line", place, what);
  }

  std::string_view field(const char* name) {
    auto found = object_.find(name);
    if (found == object_.end()) refuse_keys();
    if (found->is_null()) return {};
    if (!found->is_string()) refuse(fmt::format("'{}' is {}, text is needed", name, found->type_name()));
    return found->get_ref<const std::string&>();
  }

  [[noreturn]] void refuse_keys() const {
    std::vector<std::string> have;
    std::vector<std::string> missing;
    for (auto& [key, value] : object_.items()) have.push_back(key);
    for (const char* name : {"system_prompt", "question", "response"})
      if (!object_.contains(name)) missing.emplace_back(name);
    refuse_columns(where(), missing, have);
  }

  SourceFile file_;
  LineStream lines_;
  nlohmann::json object_;
  std::string half_pair_;
};

}  // namespace

void cut_jsonl(const SourceFile& file, size_t index, std::vector<SourcePiece>& pieces) {
  if (file.format != SourceFormat::jsonl) {
    pieces.push_back({index, 0, 0, std::numeric_limits<uint64_t>::max(), std::nullopt});
    return;
  }
  for (uint64_t begin = 0; begin < file.bytes; begin += kPieceBytes)
    pieces.push_back({index, 0, begin, std::min(begin + kPieceBytes, file.bytes), std::nullopt});
}

std::unique_ptr<RowReader> open_jsonl(const SourceFile& file, const SourcePiece& piece) {
  return std::make_unique<JsonlReader>(file, piece);
}

}  // namespace llmft
