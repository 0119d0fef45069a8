// Helpers of the tokenizer's tests: random text from one character a class, files in a folder that goes away.
#pragma once

#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>
#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/tokenizer/splitter.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft::test {

using Random = std::mt19937;

// Every class that the split rule tells apart, in every UTF-8 length it comes in.
inline const std::vector<std::string> kAlphabet = {
    "a",  "Z",  "s",      "T",  "l",          "e",          "r",      "v",      "m",
    "d",  "é",  "\u017F", "中", "\U0001D49C",                                                   // letters
    "1",  "9",  "٣",      "²",  "Ⅷ",          "\U0001D7D9",                                     // numbers
    " ",  "  ", "\t",     "\v", "\u0085",     "\u00A0",     "\u2003", "\u3000",                 // white space
    "\n", "\r", "\r\n",                                                                         // newlines
    ".",  "!",  "'",      "'",  "\u00A1",     "\u2026",     "\u0301", "\u200B", "\U0001F600"};  // others

inline std::string random_text(Random& random, size_t most, size_t longest_run = 1) {
  std::string text;
  for (size_t n = 1 + random() % most; n > 0; --n) {
    const std::string& unit = kAlphabet[random() % kAlphabet.size()];
    for (size_t run = 1 + random() % longest_run; run > 0; --run) text += unit;
  }
  return text;
}

inline std::string random_bytes(Random& random, size_t most) {
  std::string bytes(random() % (most + 1), '\0');
  // half of them from where UTF-8 goes wrong: lead bytes, continuations, what is never valid
  for (char& b : bytes) b = static_cast<char>(random() % 2 == 0 ? random() % 256 : 0x80 + random() % 128);
  return bytes;
}

inline std::vector<std::string> pieces(const Splitter& splitter, std::string_view text) {
  SplitScratch scratch;
  splitter.split(text, scratch);
  std::vector<std::string> found;
  for (size_t i = 0; i < text.size(); ++i) {
    if (get_bit(scratch.starts, i) || found.empty()) found.emplace_back();
    found.back() += text[i];
  }
  return found;
}

inline std::vector<TokenId> encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<TokenId> ids;
  tokenizer.encode(text, ids);
  return ids;
}

inline std::vector<TokenId> encode_with_special(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<TokenId> ids;
  tokenizer.encode_with_special(text, ids);
  return ids;
}

// The UserError's text, or "".
inline std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

inline bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

inline std::vector<nlohmann::json> read_json_lines(const std::filesystem::path& path) {
  std::vector<nlohmann::json> records;
  const std::string content = read_file(path);
  for (size_t at = 0; at < content.size();) {
    const size_t end = content.find('\n', at);
    records.push_back(nlohmann::json::parse(content.substr(at, end - at)));
    at = end == std::string::npos ? content.size() : end + 1;
  }
  return records;
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "llmft-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path write(const std::string& name, std::string_view content) const {
    std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    write_file_atomic(file, content);
    return file;
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace llmft::test
