#include <doctest/doctest.h>

#include "support.hpp"

using namespace llmft;
using namespace llmft::test;

namespace {
const std::filesystem::path kFolder =
    std::filesystem::path(LLMFT_SOURCE_DIR) / "tests/golden/tokenizer_sentencepiece";
}

TEST_CASE("sentencepiece: the library's ids, and the text back from them") {
  const auto tokenizer = load_tokenizer(kFolder);
  CHECK(tokenizer->kind() == "sentencepiece");
  CHECK(tokenizer->vocabulary_size() == 480);
  CHECK(tokenizer->file_hash() == hash_file(kFolder / "tokenizer.model"));
  size_t compared = 0;
  for (const nlohmann::json& record : read_json_lines(kFolder / "cases.jsonl")) {
    const auto text = record["text"].get<std::string>();
    CHECK_MESSAGE(encode(*tokenizer, text) == record["ids"].get<std::vector<TokenId>>(),
                  record["text"].dump());
    CHECK_MESSAGE(tokenizer->decode(encode(*tokenizer, text)) == text, record["text"].dump());
    ++compared;
  }
  CHECK(compared > 100);
}

TEST_CASE("sentencepiece: control tokens are text unless asked for") {
  const auto tokenizer = load_tokenizer(kFolder);
  CHECK(tokenizer->special("<unk>") == 0u);
  CHECK(tokenizer->special("<s>") == 1u);
  CHECK(tokenizer->special("</s>") == 2u);
  CHECK_FALSE(tokenizer->special("[SEP]"));  // a user-defined symbol is text that stays in one piece
  const auto plain = encode(*tokenizer, "<s>the</s>");
  CHECK(std::find(plain.begin(), plain.end(), 1u) == plain.end());
  const auto parsed = encode_with_special(*tokenizer, "<s>the</s>");
  CHECK(parsed.front() == 1u);
  CHECK(parsed.back() == 2u);
  CHECK(tokenizer->decode(parsed) == "<s>the</s>");
}

TEST_CASE("sentencepiece: decoding byte by byte, and ids of another tokenizer") {
  const auto tokenizer = load_tokenizer(kFolder);
  const auto ids = encode(*tokenizer, "\U0001F9FF");
  REQUIRE(ids.size() >= 4);
  std::string bytes;
  for (size_t n = 1; n <= ids.size(); ++n) {
    bytes = tokenizer->decode(std::span(ids).first(n));
    CHECK(std::string_view("\U0001F9FF").starts_with(bytes));
  }
  CHECK(bytes == "\U0001F9FF");
  CHECK(contains(message_of([&] { tokenizer->decode(std::vector<TokenId>{480}); }), "480"));
}
