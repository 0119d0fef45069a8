// Lines are parsed by RapidJSON, in place and without a tree. What it refuses is parsed again by a slower
// library, which says why and where.
#include <algorithm>
#include <array>
#include <limits>

#include <nlohmann/json.hpp>
#include <rapidjson/reader.h>

#include "line_stream.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"
#include "readers.hpp"
#include "utf8.hpp"

namespace llmft {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr uint64_t kLinesBetweenCalls = 1024;
constexpr std::array<const char*, 3> kFields = {"system_prompt", "question", "response"};

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

// Blank lines are no rows.
bool next_line(LineStream& lines, std::string_view& line) {
  while (lines.next(line)) {
    if (lines.line_begin() == 0 && line.starts_with(kByteOrderMark))
      line.remove_prefix(kByteOrderMark.size());
    if (!is_blank(line)) return true;
  }
  return false;
}

// Takes the fields of a row from the events of one line; false ends the parsing.
class RowHandler : public rapidjson::BaseReaderHandler<rapidjson::UTF8<>, RowHandler> {
 public:
  explicit RowHandler(Row& row) : row_(row) { row_ = {}; }
  // All fields came, and nothing that needs another look.
  bool complete() const { return found_[0] && found_[1] && found_[2]; }

  bool Default() { return depth_ > 1 || (depth_ == 1 && !text()); }  // numbers, true, false
  bool Null() { return take({}); }
  bool String(const char* text, rapidjson::SizeType size, bool) {
    if (depth_ == 0) return false;
    return (depth_ == 1 && this->text() != nullptr) ? take({text, size}) : take_other({text, size});
  }
  bool Key(const char* name, rapidjson::SizeType size, bool) {
    if (depth_ == 1) key_ = std::string_view(name, size);
    return valid_utf8({name, size});
  }
  bool StartObject() { return start(); }
  bool EndObject(rapidjson::SizeType) { return end(); }
  bool StartArray() { return depth_ > 0 && start(); }
  bool EndArray(rapidjson::SizeType) { return end(); }

 private:
  std::string_view* text() {
    for (size_t i = 0; i < kFields.size(); ++i)
      if (key_ == kFields[i]) return std::array{&row_.system_prompt, &row_.question, &row_.response}[i];
    return nullptr;
  }
  bool take(std::string_view value) {
    if (depth_ == 0) return false;
    if (depth_ > 1) return true;
    if (std::string_view* field = text()) {  // of equal keys the last counts
      *field = value;
      found_[static_cast<size_t>(std::find(kFields.begin(), kFields.end(), key_) - kFields.begin())] = true;
    } else if (key_ == "id") {
      row_.id = {};
    }
    return true;
  }
  // Half a surrogate pair may have come out of an escape; in texts it is found later.
  bool take_other(std::string_view value) {
    if (depth_ == 1 && key_ == "id") row_.id = value;
    return valid_utf8(value);
  }
  bool start() {
    if (depth_ == 1 && text() != nullptr) return false;
    if (depth_ == 1 && key_ == "id") row_.id = {};
    ++depth_;
    return true;
  }
  bool end() {
    --depth_;
    return true;
  }

  Row& row_;
  int depth_ = 0;
  std::string_view key_;
  std::array<bool, 3> found_{};
};

class JsonlReader : public RowReader {
 public:
  JsonlReader(const SourceFile& file, const SourcePiece& piece)
      : file_(file), lines_(file, piece.begin, piece.end) {}

  bool next(Row& row) override {
    std::string_view line;
    if (!next_line(lines_, line)) return false;
    if (!parse_fast(line, row)) parse_slowly(line, row);
    return true;
  }

  void skip(uint64_t rows) override {
    std::string_view line;
    while (rows > 0 && next_line(lines_, line)) --rows;
  }

 private:
  // False when there is anything unusual about the line; then row is not to be used.
  bool parse_fast(std::string_view line, Row& row) {
    if (!valid_utf8(line)) return false;
    in_place_.assign(line);
    rapidjson::InsituStringStream stream(in_place_.data());
    RowHandler handler(row);
    constexpr unsigned kFlags = rapidjson::kParseInsituFlag | rapidjson::kParseIterativeFlag;
    bool parsed = !parser_.Parse<kFlags>(stream, handler).IsError();
    return parsed && stream.Tell() == line.size() && handler.complete();
  }

  void parse_slowly(std::string_view line, Row& row) {
    if (!valid_utf8(line)) {
      row = {.question = line};
      return;
    }
    try {
      object_ = nlohmann::json::parse(line);
    } catch (const nlohmann::json::exception& e) {
      std::string reason = e.what();
      // Half a surrogate pair (Python's json writes them) is JSON, but no text that UTF-8 could hold.
      if (reason.find("surrogate") != std::string::npos) {
        half_pair_.assign(line);
        half_pair_ += '\xED';
        row = {.question = half_pair_};
        return;
      }
      size_t detail = reason.find("while parsing");
      refuse(
          fmt::format("not valid JSON ({})", detail == std::string::npos ? reason : reason.substr(detail)));
    }
    if (!object_.is_object()) refuse(fmt::format("is {}, a JSON object is needed", object_.type_name()));
    row.id = {};
    if (auto id = object_.find("id"); id != object_.end() && id->is_string())
      row.id = id->get_ref<const std::string&>();
    row.system_prompt = field(kFields[0]);
    row.question = field(kFields[1]);
    row.response = field(kFields[2]);
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
    for (const char* name : kFields)
      if (!object_.contains(name)) missing.emplace_back(name);
    refuse_columns(where(), missing, have);
  }

  SourceFile file_;
  LineStream lines_;
  rapidjson::Reader parser_;
  std::string in_place_;  // the line, unescaped where it lies
  nlohmann::json object_;
  std::string half_pair_;
};

}  // namespace

void cut_jsonl(const SourceFile& file, size_t index, std::vector<SourcePiece>& pieces) {
  if (file.format != SourceFormat::jsonl) {
    pieces.push_back({index, 0, 0, std::numeric_limits<uint64_t>::max(), std::nullopt});
    return;
  }
  for (uint64_t begin = 0; begin < file.bytes; begin += kBlockBytes)
    pieces.push_back({index, 0, begin, std::min(begin + kBlockBytes, file.bytes), std::nullopt});
}

std::unique_ptr<RowReader> open_jsonl(const SourceFile& file, const SourcePiece& piece) {
  return std::make_unique<JsonlReader>(file, piece);
}

uint64_t count_rows(const SourceFile& file, const SourcePiece& piece,
                    const std::function<void()>& meanwhile) {
  LineStream lines(file, piece.begin, piece.end);
  std::string_view line;
  uint64_t rows = 0;
  while (next_line(lines, line))
    if (++rows % kLinesBetweenCalls == 0) meanwhile();
  return rows;
}

uint64_t count_rows(const SourceFile& file, const SourcePiece& piece, std::string_view bytes,
                    bool starts_line) {
  uint64_t rows = 0;
  size_t at = 0;
  if (!starts_line) {
    size_t end = bytes.find('\n');
    if (end == std::string_view::npos) return 0;
    at = end + 1;
  } else if (piece.begin == 0 && bytes.starts_with(kByteOrderMark)) {
    at = kByteOrderMark.size();
  }
  while (at < bytes.size()) {
    size_t end = bytes.find('\n', at);
    std::string_view line = bytes.substr(at, end - at);
    if (!is_blank(line)) {
      ++rows;
    } else if (end == std::string_view::npos && piece.begin + bytes.size() < file.bytes) {
      // It goes on beyond the piece.
      LineStream rest(file, piece.begin + at, piece.begin + bytes.size());
      if (rest.next(line) && !is_blank(line)) ++rows;
    }
    if (end == std::string_view::npos) break;
    at = end + 1;
  }
  return rows;
}

}  // namespace llmft
