// Ids against the real tiktoken and Hugging Face tokenizers (tests/golden), and what holds for any
// vocabulary.
#include <cstdlib>
#include <thread>

#include <doctest/doctest.h>

#include "llmft/tokenizer/loaders.hpp"
#include "llmft/tokenizer/simd.hpp"
#include "support.hpp"

using namespace llmft;
using namespace llmft::test;
namespace fs = std::filesystem;

namespace {

const fs::path kSource = LLMFT_SOURCE_DIR;
const fs::path kTinyJson = kSource / "inputs/tiny/model/tokenizer.json";
const fs::path kTinyTiktoken = kSource / "tests/golden/tokenizer/tokenizer.model";

// Meta's file is not ours to keep: from the environment, or from the llama-models package in the project's
// own venv.
fs::path llama3_file() {
  if (const char* given = std::getenv("LLMFT_LLAMA3_TOKENIZER")) return given;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(kSource / ".venv/lib", error)) {
    fs::path file = entry.path() / "site-packages/llama_models/llama3/tokenizer.model";
    if (fs::exists(file, error)) return file;
  }
  return {};
}

void check_golden(const Tokenizer& tokenizer, const fs::path& lines, const char* ids_field, bool special) {
  size_t compared = 0;
  for (const nlohmann::json& record : read_json_lines(lines)) {
    if (!record.contains(ids_field)) continue;
    const auto text = record["text"].get<std::string>();
    const auto ids = record[ids_field].get<std::vector<TokenId>>();
    CHECK_MESSAGE((special ? encode_with_special(tokenizer, text) : encode(tokenizer, text)) == ids,
                  record["text"].dump());
    CHECK_MESSAGE(tokenizer.decode(ids) == text, record["text"].dump());
    ++compared;
  }
  CHECK(compared > 10);
}

}  // namespace

TEST_CASE("Meta's tokenizer.model: tiktoken's ids") {
  const fs::path file = llama3_file();
  if (file.empty()) {
    MESSAGE("skipped: Meta's tokenizer.model is not here (set LLMFT_LLAMA3_TOKENIZER, or run 'make deps')");
    return;
  }
  const auto tokenizer = load_tokenizer(file);
  CHECK(tokenizer->kind() == "llama3-tiktoken");
  CHECK(tokenizer->vocabulary_size() == 128256);
  CHECK(tokenizer->file_hash() == hash_file(file));
  const fs::path golden = kSource / "tests/golden/tokenizer_llama3/cases.jsonl";
  check_golden(*tokenizer, golden, "ids", false);
  check_golden(*tokenizer, golden, "special_ids", true);

  // names and ids as in llama_models/llama3/tokenizer.py
  CHECK(tokenizer->special_tokens().size() == 256);
  for (const auto& named :
       {std::pair{"<|begin_of_text|>", 128000u}, std::pair{"<|end_of_text|>", 128001u},
        std::pair{"<|finetune_right_pad_id|>", 128004u}, std::pair{"<|start_header_id|>", 128006u},
        std::pair{"<|end_header_id|>", 128007u}, std::pair{"<|eom_id|>", 128008u},
        std::pair{"<|eot_id|>", 128009u}, std::pair{"<|python_tag|>", 128010u},
        std::pair{"<|image|>", 128011u}, std::pair{"<|reserved_special_token_2|>", 128012u},
        std::pair{"<|reserved_special_token_245|>", 128255u}})
    CHECK_MESSAGE(tokenizer->special(named.first) == named.second, named.first);
  CHECK_FALSE(tokenizer->special("<|reserved_special_token_246|>"));

  // not reachable by merging: as a whole piece only
  CHECK(encode(*tokenizer, " Việt") == std::vector<TokenId>{101798});
  CHECK(encode(*tokenizer, " структура") == std::vector<TokenId>{107557, 22911});
}

TEST_CASE("tokenizer.json and the same vocabulary in tiktoken's format: tiktoken's ids") {
  const auto json = load_tokenizer(kTinyJson);
  const auto tiktoken = load_tokenizer(kTinyTiktoken);
  CHECK(json->kind() == "hf-bpe");
  CHECK(tiktoken->kind() == "llama3-tiktoken");
  CHECK(json->vocabulary_size() == 2048);
  CHECK(tiktoken->vocabulary_size() == 2048);
  CHECK(json->special("<|eot_id|>") == 1801u);
  CHECK(json->file_hash() == hash_file(kTinyJson));
  CHECK(json->file_hash() != tiktoken->file_hash());
  for (const Tokenizer* tokenizer : {json.get(), tiktoken.get()}) {
    check_golden(*tokenizer, kSource / "tests/golden/tokenizer/ordinary.jsonl", "ids", false);
    check_golden(*tokenizer, kSource / "tests/golden/tokenizer/special.jsonl", "ids", true);
  }
  Random random(1);
  for (int i = 0; i < 5000; ++i) {
    const std::string text = random_text(random, 30, 3);
    REQUIRE(encode(*json, text) == encode(*tiktoken, text));
  }
}

TEST_CASE("special tokens' names in text are text, unless asked for") {
  const auto tokenizer = load_tokenizer(kTinyJson.parent_path());
  const TokenId eot = *tokenizer->special("<|eot_id|>");
  const std::string text = "a<|eot_id|>b<|eot_id|><|eot_id";
  const auto plain = encode(*tokenizer, text);
  CHECK(std::find(plain.begin(), plain.end(), eot) == plain.end());
  const auto parsed = encode_with_special(*tokenizer, text);
  CHECK(std::count(parsed.begin(), parsed.end(), eot) == 2);
  CHECK(tokenizer->decode(plain) == text);
  CHECK(tokenizer->decode(parsed) == text);
}

TEST_CASE("any bytes come back from their ids, valid UTF-8 or not") {
  const auto tokenizer = load_tokenizer(kTinyJson);
  Random random(2);
  for (int i = 0; i < 20000; ++i) {
    const std::string bytes =
        i % 2 == 0 ? random_bytes(random, 200) : random_text(random, 5) + random_bytes(random, 5);
    // memory of exactly this size, so that a sanitizer sees a read past the end
    const std::vector<char> exact(bytes.begin(), bytes.end());
    const std::string_view text(exact.data(), exact.size());
    REQUIRE(tokenizer->decode(encode(*tokenizer, text)) == bytes);
    REQUIRE(tokenizer->decode(encode_with_special(*tokenizer, text)) == bytes);
  }
  for (int lead = 0x80; lead < 0x100; ++lead)  // cut tails at the end of the text
    for (const char* tail : {"", "\x80", "\x80\x80", "\xBF\xBF\xBF", "a"}) {
      const std::string bytes = "ab " + std::string(1, static_cast<char>(lead)) + tail;
      REQUIRE(tokenizer->decode(encode(*tokenizer, bytes)) == bytes);
    }
}

TEST_CASE("encode appends, and encoding a text twice gives the same ids") {
  const auto tokenizer = load_tokenizer(kTinyJson);
  Random random(3);
  for (int i = 0; i < 300; ++i) {
    const std::string text = random_text(random, 3000);  // more pieces than a batch holds
    std::vector<TokenId> ids{5};
    tokenizer->encode(text, ids);
    const auto again = encode(*tokenizer, text);
    REQUIRE(ids.size() == again.size() + 1);
    REQUIRE(std::equal(again.begin(), again.end(), ids.begin() + 1));
  }
  CHECK(encode(*tokenizer, "").empty());
}

TEST_CASE("each tier of instructions gives the same ids") {
  const std::string content = read_file(kTinyTiktoken);
  const auto best = load_tiktoken(content, "test");
  for (SimdTier tier : available_simd_tiers()) {
    REQUIRE(::setenv("LLMFT_SIMD", std::string(name_of(tier)).c_str(), 1) == 0);
    REQUIRE(simd_tier() == tier);
    const auto forced = load_tiktoken(content, "test");
    ::unsetenv("LLMFT_SIMD");
    Random random(11);
    for (int i = 0; i < 4000; ++i) {
      const std::string text = i % 3 == 0 ? random_bytes(random, 300) : random_text(random, 300, 1 + i % 4);
      const std::vector<char> exact(text.begin(), text.end());  // a sanitizer sees reads past the end
      REQUIRE_MESSAGE(encode(*forced, {exact.data(), exact.size()}) == encode(*best, text), name_of(tier));
    }
  }
  ::setenv("LLMFT_SIMD", "avx1024", 1);
  const std::string message = message_of([] { simd_tier(); });
  ::unsetenv("LLMFT_SIMD");
  CHECK(contains(message, "LLMFT_SIMD=avx1024"));
  CHECK(contains(message, "portable"));
}

TEST_CASE("a word table that is full starts over, and ids stay the same") {
  const std::string content = read_file(kTinyTiktoken);
  const auto roomy = load_tiktoken(content, "test");
  // The vocabulary's 1,800 entries and some thousands of words; the text has far more than that.
  const auto tight = load_tiktoken(content, "test", size_t{1} << 19);
  Random random(12);
  std::string text;
  for (int i = 0; i < 60000; ++i) {
    text += ' ';
    // of every kind of entry: few ids, more than four, longer than a key
    const size_t longest = i % 10 == 0 ? 40 : 8;
    for (size_t n = 1 + random() % longest; n > 0; --n) text += static_cast<char>('a' + random() % 26);
    if (i % 3 == 0) text += " the model and";
  }
  const auto expected = encode(*roomy, text);
  for (int pass = 0; pass < 3; ++pass) REQUIRE(encode(*tight, text) == expected);
  REQUIRE(tight->decode(expected) == text);
}

TEST_CASE("a word of a megabyte takes no quadratic time") {
  const auto tokenizer = load_tokenizer(kTinyJson);
  for (const char* unit : {"a", "the", " ", "\n", "7", "!", "中", "\xFF"}) {
    std::string text;
    while (text.size() < (size_t{1} << 20)) text += unit;
    REQUIRE(tokenizer->decode(encode(*tokenizer, text)) == text);
  }
}

TEST_CASE("threads may encode at the same time") {
  const auto tokenizer = load_tokenizer(kTinyJson);
  std::vector<std::string> texts;
  std::vector<std::vector<TokenId>> expected;
  Random random(4);
  for (int i = 0; i < 300; ++i) {
    texts.push_back(random_text(random, 100, 3));
    expected.push_back(encode(*tokenizer, texts.back()));
  }
  const auto fresh = load_tokenizer(kTinyJson);
  std::vector<int> wrong(4, 0);
  {
    std::vector<std::thread> threads;
    for (size_t t = 0; t < wrong.size(); ++t)
      threads.emplace_back([&, t] {
        for (int round = 0; round < 5; ++round)
          for (size_t i = 0; i < texts.size(); ++i) {
            const size_t k = (i + t * 37) % texts.size();
            const auto ids = encode(*fresh, texts[k]);
            wrong[t] += ids != expected[k] || fresh->decode(ids) != texts[k];
          }
      });
    for (std::thread& thread : threads) thread.join();
  }
  CHECK(wrong == std::vector<int>(4, 0));
}

TEST_CASE("decode refuses ids of another tokenizer") {
  const auto tokenizer = load_tokenizer(kTinyJson);
  CHECK(tokenizer->decode({}).empty());
  const std::vector<TokenId> ids{1, 2048};
  CHECK(contains(message_of([&] { tokenizer->decode(ids); }), "2048"));
}
