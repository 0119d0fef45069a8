// tiktoken ranks byte strings, not pairs: two neighbours merge if their bytes together are an entry, however
// it is cut. So every cut of every entry into two entries is a merge, all with the entry's rank.
#include <array>
#include <unordered_map>

#include <fmt/format.h>

#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"
#include "llmft/tokenizer/bpe_tokenizer.hpp"
#include "llmft/tokenizer/loaders.hpp"

namespace llmft {
namespace {

constexpr size_t kLlama3Ranks = 128000;
constexpr size_t kSpecialTokens = 256;

std::optional<std::string> decode_base64(std::string_view text) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  static const std::array<int8_t, 256> kValues = [] {
    std::array<int8_t, 256> values;
    values.fill(-1);
    for (size_t i = 0; i < kDigits.size(); ++i)
      values[static_cast<unsigned char>(kDigits[i])] = static_cast<int8_t>(i);
    return values;
  }();
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  std::string bytes;
  uint32_t buffer = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const int value = i >= text.size() - padding ? 0 : kValues[static_cast<unsigned char>(text[i])];
    if (value < 0) return std::nullopt;
    buffer = buffer << 6 | static_cast<uint32_t>(value);
    if (i % 4 == 3)
      for (int shift : {16, 8, 0}) bytes.push_back(static_cast<char>(buffer >> shift & 0xFF));
  }
  bytes.resize(bytes.size() - padding);
  return bytes;
}

struct Line {
  std::string bytes;
  int64_t rank;
};

std::optional<Line> parse_line(std::string_view line) {
  const size_t blank = line.find(' ');
  if (blank == std::string_view::npos) return std::nullopt;
  auto bytes = decode_base64(line.substr(0, blank));
  auto rank = parse_int(trim(line.substr(blank + 1)));
  if (!bytes || !rank || *rank < 0) return std::nullopt;
  return Line{std::move(*bytes), *rank};
}

// Names of ids from the last rank on, as llama_models/llama3/tokenizer.py gives them for Llama 3.1 to 3.3.
std::map<std::string, TokenId, std::less<>> llama3_special_tokens(size_t ranks) {
  std::vector<std::string> names{"<|begin_of_text|>",
                                 "<|end_of_text|>",
                                 "<|reserved_special_token_0|>",
                                 "<|reserved_special_token_1|>",
                                 "<|finetune_right_pad_id|>",
                                 "<|step_id|>",
                                 "<|start_header_id|>",
                                 "<|end_header_id|>",
                                 "<|eom_id|>",
                                 "<|eot_id|>",
                                 "<|python_tag|>",
                                 "<|image|>"};
  for (int i = 2; names.size() < kSpecialTokens; ++i)
    names.push_back(fmt::format("<|reserved_special_token_{}|>", i));
  std::map<std::string, TokenId, std::less<>> ids;
  for (size_t i = 0; i < names.size(); ++i) ids[names[i]] = static_cast<TokenId>(ranks + i);
  return ids;
}

std::vector<std::string> read_vocabulary(std::string_view content, const std::string& where) {
  std::vector<std::string> vocabulary;
  std::vector<bool> seen;
  size_t entries = 0;
  size_t number = 0;
  while (!content.empty()) {
    const size_t end = content.find('\n');
    const std::string_view text = trim(content.substr(0, end));
    content.remove_prefix(end == std::string_view::npos ? content.size() : end + 1);
    ++number;
    if (text.empty()) continue;
    auto line = parse_line(text);
    if (!line)
      user_error(
          "{}:{}: not a line of a tiktoken vocabulary (base64, a blank and a rank are needed); get the file "
          "again",
          where, number);
    const auto rank = static_cast<size_t>(line->rank);
    if (rank >= MergeTable::kMaxIds)
      user_error("{}:{}: rank {} is too large (below {} is needed); get the file again", where, number, rank,
                 MergeTable::kMaxIds);
    if (rank >= vocabulary.size()) vocabulary.resize(rank + 1), seen.resize(rank + 1);
    if (seen[rank]) user_error("{}:{}: rank {} comes twice; get the file again", where, number, rank);
    seen[rank] = true;
    vocabulary[rank] = std::move(line->bytes);
    ++entries;
  }
  if (entries != vocabulary.size())
    user_error(
        "{}: {} entries but ranks up to {} (some are missing); the file is cut or damaged, get it again",
        where, entries, vocabulary.size() - 1);
  return vocabulary;
}

}  // namespace

bool looks_like_tiktoken(std::string_view content) {
  return parse_line(content.substr(0, content.find('\n'))).has_value();
}

std::unique_ptr<Tokenizer> load_tiktoken(std::string_view content, const std::string& where,
                                         size_t table_bytes) {
  BpeModel model;
  model.kind = "llama3-tiktoken";
  model.vocabulary = read_vocabulary(content, where);
  const size_t ranks = model.vocabulary.size();
  if (ranks != kLlama3Ranks)
    warn_once(
        "{}: {} entries where Llama 3 has {}; Llama 3's split rule and special tokens are taken all the same",
        where, ranks, kLlama3Ranks);

  std::unordered_map<std::string_view, TokenId> ids;
  ids.reserve(ranks * 2);
  for (size_t id = 0; id < ranks; ++id)
    if (!ids.emplace(model.vocabulary[id], static_cast<TokenId>(id)).second)
      user_error("{}: ranks {} and {} have the same bytes; get the file again", where,
                 ids[model.vocabulary[id]], id);
  for (size_t id = 0; id < ranks; ++id) {
    const std::string_view bytes = model.vocabulary[id];
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      auto left = ids.find(bytes.substr(0, cut));
      if (left == ids.end()) continue;
      auto right = ids.find(bytes.substr(cut));
      if (right == ids.end()) continue;
      model.merges.push_back({left->second, right->second, static_cast<TokenId>(id)});
      model.ranks.push_back(static_cast<uint32_t>(id));
    }
  }
  model.special = llama3_special_tokens(ranks);
  model.table_bytes = table_bytes;
  model.splitter = make_llama3_splitter();
  return std::make_unique<BpeTokenizer>(std::move(model), where);
}

}  // namespace llmft
