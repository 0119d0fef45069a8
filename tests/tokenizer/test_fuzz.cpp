#include <array>
#include <chrono>

#include <doctest/doctest.h>

#include "fuzz.hpp"

using namespace llmft;
using namespace llmft::test;

namespace {
std::string hex(std::string_view bytes) {
  std::string digits;
  for (unsigned char b : bytes) digits += {"0123456789abcdef"[b >> 4], "0123456789abcdef"[b & 15]};
  return digits;
}
}  // namespace

TEST_CASE("the reference splits as a regex engine does") {
  const Reference reference({});
  auto regex = make_regex_splitter({std::string(kLlama3Pattern)}, "test");
  Random random(21);
  for (int i = 0; i < 20000; ++i) {
    const std::string text = random_text(random, 20, 1 + i % 3);
    REQUIRE_MESSAGE(reference.pieces(text) == pieces(*regex, text), nlohmann::json(text).dump());
  }
}

// LLMFT_FUZZ_SECONDS: how long (2), LLMFT_FUZZ_SEED: another series of texts.
TEST_CASE("fuzz: ids are the reference's, whatever the bytes") {
  auto number = [](const char* name, unsigned otherwise) {
    const char* given = std::getenv(name);
    return given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : otherwise;
  };
  const FuzzTarget target;
  const unsigned seed = number("LLMFT_FUZZ_SEED", 1);
  Random random(seed);
  std::vector<std::string> corpus{"The model's 1234 tokens, don't\r\n\r\n  split  them.\t!"};
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(number("LLMFT_FUZZ_SECONDS", 2));
  size_t tried = 0;
  while (tried < 50 || std::chrono::steady_clock::now() < end) {
    std::string text = corpus[random() % corpus.size()];
    for (size_t edits = 1 + random() % 4; edits > 0; --edits) {
      const size_t at = random() % (text.size() + 1);
      switch (random() % 5) {
        case 0:
          text.insert(at, random_bytes(random, 8));
          break;
        case 1:
          text.insert(at, random_text(random, 8, random() % 8 == 0 ? 70 : 2));
          break;
        case 2:
          text.erase(at, 1 + random() % 8);
          break;
        case 3:
          text.insert(at, text.substr(random() % (text.size() + 1), 1 + random() % 100));
          break;
        default:
          if (at < text.size()) text[at] = static_cast<char>(random() % 256);
      }
    }
    if (text.size() > 2000) text.resize(2000);
    const std::string wrong = target.check(text);
    REQUIRE_MESSAGE(wrong == "", "seed ", seed, ", text ", tried, ": ", hex(text));
    if (corpus.size() < 500)
      corpus.push_back(text);
    else
      corpus[random() % corpus.size()] = text;
    ++tried;
  }
  MESSAGE(tried, " texts");
}

// Longer than a part: the engine cuts it, at places that depend on what stands there.
TEST_CASE("fuzz: texts that are cut have the ids of the whole") {
  const FuzzTarget target;
  Random random(22);
  for (int i = 0; i < 12; ++i) {
    std::string text;
    while (text.size() < 40000) {
      text += random_text(random, 200, 1 + i % 3);
      if (i % 4 != 3) continue;
      for (int k = 0; k < 6000; ++k)
        text += std::array{" !", "\n", "..", "\t ", "'"}[random() % 5];  // nowhere to cut
    }
    REQUIRE(target.check(text) == "");
  }
}
