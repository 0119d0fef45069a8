// tokenizer.json as the `tokenizers` library writes it. What changes ids is read and followed, or refused: a
// field that this program does not know must never be skipped silently.
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/tokenizer/bpe_tokenizer.hpp"
#include "llmft/tokenizer/loaders.hpp"
#include "llmft/tokenizer/unicode.hpp"

namespace llmft {
namespace {

using nlohmann::json;

// GPT-2's rule, which a ByteLevel pre-tokenizer with use_regex applies.
constexpr const char* kGpt2Pattern =
    R"re('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)re";

[[noreturn]] void unsupported(const std::string& where, const std::string& what) {
  user_error(
      "{}: {} (byte-level BPE without a normalizer is what this program reads); use a Llama 3 tokenizer, or "
      "its "
      "tokenizer.model",
      where, what);
}

const json& field(const json& object, const char* name, const std::string& where) {
  auto found = object.is_object() ? object.find(name) : object.end();
  if (found == object.end())
    user_error("{}: '{}' is missing; this is not a whole tokenizer.json", where, name);
  return *found;
}

// A field's value, or what it is when absent or null.
template <class T>
T value_or(const json& object, const char* name, T otherwise) {
  auto found = object.find(name);
  return found == object.end() || found->is_null() ? otherwise : found->get<T>();
}

// Byte-level BPE writes each byte as a printable character: the printable bytes of Latin-1 as themselves, the
// others, in order, as U+0100 and on.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      byte_of_[printable ? byte : next++] = static_cast<char>(byte);
    }
  }
  // The bytes that text stands for; "" when it has a character of another alphabet.
  std::string bytes_of(std::string_view text) const {
    std::string bytes;
    for (size_t at = 0; at < text.size();) {
      const DecodedChar c = decode_char(text, at);
      auto byte = byte_of_.find(c.code_point);
      if (c.length == 0 || byte == byte_of_.end()) return "";
      bytes.push_back(byte->second);
      at += c.length;
    }
    return bytes;
  }

 private:
  std::unordered_map<uint32_t, char> byte_of_;
};

// The patterns that a pre-tokenizer cuts text by, in order. byte_level: whether it ends in ByteLevel.
void read_pre_tokenizer(const json& node, const std::string& where, std::vector<std::string>& patterns,
                        bool& byte_level) {
  if (!node.is_object()) unsupported(where, "it has no pre_tokenizer");
  const auto type = field(node, "type", where).get<std::string>();
  if (type == "Sequence") {
    for (const json& part : field(node, "pretokenizers", where))
      read_pre_tokenizer(part, where, patterns, byte_level);
  } else if (byte_level) {
    unsupported(where, fmt::format("pre_tokenizer {} follows ByteLevel", type));
  } else if (type == "Split") {
    const json& pattern = field(node, "pattern", where);
    if (!pattern.contains("Regex")) unsupported(where, "pre_tokenizer Split has no Regex");
    if (value_or<std::string>(node, "behavior", "") != "Isolated" || value_or(node, "invert", false))
      unsupported(where, fmt::format("pre_tokenizer Split has behavior {} and invert {}",
                                     node.value("behavior", json()).dump(), value_or(node, "invert", false)));
    patterns.push_back(pattern["Regex"].get<std::string>());
  } else if (type == "Digits") {
    patterns.push_back(value_or(node, "individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
  } else if (type == "ByteLevel") {
    if (value_or(node, "add_prefix_space", true))
      unsupported(where, "pre_tokenizer ByteLevel has add_prefix_space");
    if (value_or(node, "use_regex", true)) patterns.push_back(kGpt2Pattern);
    byte_level = true;
  } else {
    unsupported(where, fmt::format("pre_tokenizer {} is not supported", type));
  }
}

std::unique_ptr<Splitter> make_splitter(const json& root, const std::string& where) {
  std::vector<std::string> patterns;
  bool byte_level = false;
  read_pre_tokenizer(root.contains("pre_tokenizer") ? root["pre_tokenizer"] : json(), where, patterns,
                     byte_level);
  if (!byte_level) unsupported(where, "its pre_tokenizer is not ByteLevel");
  if (patterns.size() == 1 && patterns[0] == kLlama3Pattern) return make_llama3_splitter();
  warn_once(
      "{}: its split pattern is not Llama 3's; PCRE2 applies it, which is slower and has its own version of "
      "Unicode",
      where);
  return make_regex_splitter(patterns, where);
}

void read_vocabulary(const json& node, const std::string& where, BpeModel& model,
                     std::unordered_map<std::string, TokenId>& ids) {
  static const ByteAlphabet alphabet;
  for (const auto& [text, value] : node.items()) {
    const auto id = value.get<uint64_t>();
    if (id >= MergeTable::kMaxIds)
      user_error("{}: id {} of '{}' is too large (below {} is needed)", where, id, text, MergeTable::kMaxIds);
    if (id >= model.vocabulary.size()) model.vocabulary.resize(id + 1);
    model.vocabulary[id] = alphabet.bytes_of(text);
    ids[text] = static_cast<TokenId>(id);
  }
}

void read_merges(const json& node, const std::string& where, BpeModel& model,
                 const std::unordered_map<std::string, TokenId>& ids) {
  for (const json& entry : node) {
    std::string left, right;
    if (entry.is_string()) {  // "a b", as older files have it
      const auto text = entry.get<std::string>();
      const size_t blank = text.find(' ');
      left = text.substr(0, blank);
      if (blank != std::string::npos) right = text.substr(blank + 1);
    } else if (entry.is_array() && entry.size() == 2) {
      left = entry[0].get<std::string>();
      right = entry[1].get<std::string>();
    }
    auto a = ids.find(left), b = ids.find(right), merged = ids.find(left + right);
    if (a == ids.end() || b == ids.end() || merged == ids.end())
      user_error("{}: merge {} ({}) names what is not in the vocabulary; the file is damaged, get it again",
                 where, model.merges.size(), entry.dump());
    model.ranks.push_back(static_cast<uint32_t>(model.merges.size()));
    model.merges.push_back({a->second, b->second, merged->second});
  }
}

void read_added_tokens(const json& node, const std::string& where, BpeModel& model) {
  for (const json& token : node) {
    const auto name = field(token, "content", where).get<std::string>();
    const auto id = field(token, "id", where).get<uint64_t>();
    if (id >= MergeTable::kMaxIds) user_error("{}: id {} of '{}' is too large", where, id, name);
    for (const char* trait : {"single_word", "lstrip", "rstrip"})
      if (value_or(token, trait, false))
        warn_once("{}: {} of the added token '{}' is ignored", where, trait, name);
    auto& names = value_or(token, "special", false) ? model.special : model.always_matched;
    names[name] = static_cast<TokenId>(id);
    // An added token may stand in the vocabulary too; it is no text there.
    if (id < model.vocabulary.size()) model.vocabulary[id].clear();
  }
}

std::unique_ptr<Tokenizer> read_tokenizer(const json& root, const std::string& where) {
  if (root.contains("normalizer") && !root["normalizer"].is_null())
    unsupported(where, fmt::format("normalizer {} is not supported",
                                   root["normalizer"].value("type", json("of an unknown type")).dump()));
  const json& node = field(root, "model", where);
  const auto type = value_or<std::string>(node, "type", "BPE");
  if (type != "BPE") unsupported(where, fmt::format("model type {} is not supported", type));
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!value_or<std::string>(node, name, "").empty()) unsupported(where, fmt::format("model has {}", name));
  if (value_or(node, "dropout", 0.0) != 0.0) unsupported(where, "model has dropout");
  if (value_or(node, "byte_fallback", false)) unsupported(where, "model has byte_fallback");

  BpeModel model;
  model.kind = "hf-bpe";
  model.whole_piece =
      value_or(node, "ignore_merges", false) ? WholePiece::is_one_token : WholePiece::is_merged;
  model.splitter = make_splitter(root, where);
  std::unordered_map<std::string, TokenId> ids;
  read_vocabulary(field(node, "vocab", where), where, model, ids);
  read_merges(field(node, "merges", where), where, model, ids);
  if (root.contains("added_tokens")) read_added_tokens(root["added_tokens"], where, model);
  return std::make_unique<BpeTokenizer>(std::move(model), where);
}

}  // namespace

bool looks_like_json(std::string_view content) {
  const size_t first = content.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && content[first] == '{';
}

std::unique_ptr<Tokenizer> load_hugging_face(std::string_view content, const std::string& where) {
  try {
    return read_tokenizer(json::parse(content), where);
  } catch (const json::parse_error& e) {
    user_error("{}: not valid JSON (at byte {} of {}); get the file again", where, e.byte, content.size());
  } catch (const json::exception& e) {
    user_error("{}: not a tokenizer.json that this program understands ({}); get the file again", where,
               e.what());
  }
}

}  // namespace llmft
