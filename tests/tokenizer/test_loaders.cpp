// What load_tokenizer finds, follows and refuses.
#include <doctest/doctest.h>

#include "llmft/tokenizer/unicode.hpp"
#include "support.hpp"

using namespace llmft;
using namespace llmft::test;
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const fs::path kSource = LLMFT_SOURCE_DIR;

std::string base64(std::string_view bytes) {
  const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k)
      group = group << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (int k = 0; k < 4; ++k)
      text += i + static_cast<size_t>(k) > bytes.size() ? '=' : digits[group >> (18 - 6 * k) & 63];
  }
  return text;
}

std::string tiktoken_file(const std::vector<std::string>& words) {
  std::string content;
  int rank = 0;
  for (int b = 0; b < 256; ++b)
    content += base64(std::string(1, static_cast<char>(b))) + " " + std::to_string(rank++) + "\n";
  for (const std::string& word : words) content += base64(word) + " " + std::to_string(rank++) + "\n";
  return content;
}

// A byte-level tokenizer.json; ids of bytes are the bytes.
json hugging_face(const std::vector<std::pair<std::string, std::string>>& merges) {
  json vocabulary;
  std::vector<std::string> letter(256);
  uint32_t next = 0x100;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    append_utf8(printable ? b : next++, letter[b]);
    vocabulary[letter[b]] = b;
  }
  json list = json::array();
  uint32_t id = 256;
  for (const auto& [left, right] : merges) {
    list.push_back(json::array({left, right}));
    vocabulary[left + right] = id++;
  }
  return {{"normalizer", nullptr},
          {"added_tokens", json::array()},
          {"pre_tokenizer",
           {{"type", "Sequence"},
            {"pretokenizers",
             {{{"type", "Split"},
               {"pattern", {{"Regex", kLlama3Pattern}}},
               {"behavior", "Isolated"},
               {"invert", false}},
              {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
          {"model", {{"type", "BPE"}, {"ignore_merges", false}, {"vocab", vocabulary}, {"merges", list}}}};
}

std::string refusal(const std::string& content, const std::string& name = "tokenizer.model") {
  TemporaryFolder folder;
  const fs::path file = folder.write(name, content);
  std::string message = message_of([&] { load_tokenizer(file); });
  CHECK_MESSAGE(contains(message, file.string()), message);
  return message;
}

std::unique_ptr<Tokenizer> load(const json& description) {
  TemporaryFolder folder;
  return load_tokenizer(folder.write("tokenizer.json", description.dump()));
}

}  // namespace

TEST_CASE("a folder: tokenizer.json, then tokenizer.model, then original/tokenizer.model") {
  TemporaryFolder folder;
  const std::string message = message_of([&] { load_tokenizer(folder.path()); });
  for (const char* name : {"tokenizer.json", "tokenizer.model", "original/tokenizer.model"})
    CHECK(contains(message, name));
  folder.write("original/tokenizer.model", tiktoken_file({"ab"}));
  CHECK(load_tokenizer(folder.path())->vocabulary_size() == 257 + 256);
  folder.write("tokenizer.model", tiktoken_file({"ab", "cd"}));
  CHECK(load_tokenizer(folder.path())->vocabulary_size() == 258 + 256);
  folder.write("tokenizer.json", hugging_face({}).dump());
  CHECK(load_tokenizer(folder.path())->kind() == "hf-bpe");
  CHECK(load_tokenizer(folder.path() / "tokenizer.model")->kind() == "llama3-tiktoken");
  CHECK(contains(message_of([&] { load_tokenizer(folder.path() / "none"); }), "none"));
}

TEST_CASE("tiktoken's format: an entry that merging cannot reach is emitted for whole pieces only") {
  TemporaryFolder folder;
  // "xyz" has no cut into two entries
  const auto tokenizer =
      load_tokenizer(folder.write("tokenizer.model", tiktoken_file({"ab", "xyz", " xyz", "abab"})));
  CHECK(encode(*tokenizer, "xyz") == std::vector<TokenId>{257});
  CHECK(encode(*tokenizer, "a xyz") == std::vector<TokenId>{'a', 258});
  CHECK(encode(*tokenizer, "xyzq") == std::vector<TokenId>{'x', 'y', 'z', 'q'});
  CHECK(encode(*tokenizer, "ababab") == std::vector<TokenId>{259, 256});
  CHECK(tokenizer->special("<|begin_of_text|>") == 260u);
  CHECK(tokenizer->special("<|reserved_special_token_245|>") == 260u + 255);
}

TEST_CASE("tiktoken's format: damage is named, with the line") {
  const std::string good = tiktoken_file({"ab", "cd"});
  CHECK(contains(refusal(good + "QUJD 7\n"), "twice"));
  CHECK(contains(refusal(good + "YWI= 258\n"), "same bytes"));
  CHECK(contains(refusal(good + "!!!! 258\n"), ":259"));
  CHECK(contains(refusal(good + "QUJD\n"), ":259"));
  CHECK(contains(refusal(good + "QUJD -1\n"), ":259"));
  CHECK(contains(refusal(good + "QUJD 99999999999\n"), ":259"));
  CHECK(contains(refusal(good + "QUJD 300\n"), "missing"));
  CHECK(contains(refusal("YWI= 0\n"), "byte 0x00"));
  CHECK(contains(refusal(""), "empty"));
  CHECK(contains(refusal(good.substr(0, good.size() / 2)), "tokenizer.model"));
}

TEST_CASE("other content: sentencepiece's library has the last word; a Git LFS pointer is named") {
  CHECK(contains(refusal("no tokenizer at all"), "neither"));
  CHECK(contains(refusal(std::string("\x0A\xFF\xFF\xFF\xFF\x0F", 6)), "neither"));
  CHECK(contains(refusal("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "LFS"));
}

TEST_CASE("tokenizer.json: merges are taken in their order, whatever the ids") {
  const auto tokenizer = load(hugging_face({{"b", "c"}, {"a", "b"}, {"a", "bc"}}));
  CHECK(encode(*tokenizer, "abc") == std::vector<TokenId>{258});
  CHECK(encode(*tokenizer, "ab") == std::vector<TokenId>{257});
  CHECK(encode(*tokenizer, "abcbc") == std::vector<TokenId>{258, 256});
  json strings = hugging_face({{"b", "c"}});
  strings["model"]["merges"] = {"b c"};  // as older files have them
  CHECK(encode(*load(strings), "bc") == std::vector<TokenId>{256});
}

TEST_CASE("tokenizer.json: ignore_merges decides on entries that merging cannot reach") {
  json description = hugging_face({{"a", "b"}});
  description["model"]["vocab"]["xyz"] = 300;
  CHECK(encode(*load(description), "xyz") == std::vector<TokenId>{'x', 'y', 'z'});
  CHECK(load(description)->vocabulary_size() == 301);
  description["model"]["ignore_merges"] = true;
  CHECK(encode(*load(description), "xyz") == std::vector<TokenId>{300});
  CHECK(encode(*load(description), "xyzq") == std::vector<TokenId>{'x', 'y', 'z', 'q'});
  CHECK(load(description)->decode(std::vector<TokenId>{299}).empty());  // an id that nothing has
}

TEST_CASE("tokenizer.json: added tokens, special and not") {
  json description = hugging_face({});
  description["added_tokens"] = {{{"id", 256}, {"content", "<|a|>"}, {"special", true}},
                                 {{"id", 257}, {"content", "<|a|>b"}, {"special", true}},
                                 {{"id", 258}, {"content", "<tool>"}, {"special", false}}};
  const auto tokenizer = load(description);
  CHECK(tokenizer->special_tokens().size() == 2);
  CHECK(encode(*tokenizer, "x<tool>") == std::vector<TokenId>{'x', 258});  // as Hugging Face does
  CHECK(encode(*tokenizer, "<|a|>").size() == 5);
  CHECK(encode_with_special(*tokenizer, "<|a|>b<|a|><tool>") ==
        std::vector<TokenId>{257, 256, 258});  // the longest
  CHECK(tokenizer->decode(std::vector<TokenId>{256, 258}) == "<|a|><tool>");
}

TEST_CASE("tokenizer.json: another split pattern goes to PCRE2") {
  json description = hugging_face({{"1", "2"}});
  CHECK(encode(*load(description), "1212") ==
        std::vector<TokenId>{256, '1', '2'});  // numbers in threes: 121, 2
  description["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  CHECK(encode(*load(description), "1212") == std::vector<TokenId>{256, 256});
  description["pre_tokenizer"] = {{"type", "Sequence"},
                                  {"pretokenizers",
                                   {{{"type", "Digits"}, {"individual_digits", true}},
                                    {{"type", "ByteLevel"}, {"add_prefix_space", false}}}}};
  CHECK(encode(*load(description), "1212") == std::vector<TokenId>{'1', '2', '1', '2'});
}

TEST_CASE("tokenizer.json: what would change ids and is not supported is refused") {
  auto refused = [](const std::function<void(json&)>& change) {
    json description = hugging_face({{"a", "b"}});
    change(description);
    return refusal(description.dump(), "tokenizer.json");
  };
  CHECK(contains(refused([](json& d) { d["model"]["type"] = "WordPiece"; }), "WordPiece"));
  CHECK(contains(refused([](json& d) { d["normalizer"] = {{"type", "NFC"}}; }), "NFC"));
  CHECK(contains(refused([](json& d) { d["model"]["byte_fallback"] = true; }), "byte_fallback"));
  CHECK(contains(refused([](json& d) { d["model"]["dropout"] = 0.1; }), "dropout"));
  CHECK(contains(refused([](json& d) { d["model"]["continuing_subword_prefix"] = "##"; }),
                 "continuing_subword_prefix"));
  CHECK(contains(refused([](json& d) { d["pre_tokenizer"] = {{"type", "Metaspace"}}; }), "Metaspace"));
  CHECK(contains(refused([](json& d) { d["pre_tokenizer"] = nullptr; }), "pre_tokenizer"));
  CHECK(contains(refused([](json& d) { d["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }),
                 "Removed"));
  CHECK(contains(refused([](json& d) { d["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; }),
                 "compile"));
  CHECK(contains(refused([](json& d) { d["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; }),
                 "add_prefix_space"));
  CHECK(contains(refused([](json& d) { d["model"]["merges"].push_back({"a", "q9"}); }), "merge 1"));
  CHECK(contains(refused([](json& d) { d["model"]["vocab"].erase("a"); }), "merge 0"));
  CHECK(contains(refused([](json& d) { d["model"]["vocab"].erase("z"); }), "byte 0x7A"));
  CHECK(contains(refused([](json& d) { d["model"].erase("vocab"); }), "'vocab' is missing"));
  CHECK(contains(refused([](json& d) { d["model"]["vocab"]["a"] = "one"; }), "tokenizer.json"));
  CHECK(contains(refused([](json& d) { d["model"]["vocab"]["a"] = -1; }), "tokenizer.json"));
  CHECK(contains(refused([](json& d) { d["model"]["vocab"]["aa"] = 1 << 20; }), "too large"));
  CHECK(contains(refused([](json& d) { d.erase("model"); }), "'model' is missing"));
  CHECK(contains(refusal(hugging_face({}).dump().substr(0, 500), "tokenizer.json"), "not valid JSON"));
}
