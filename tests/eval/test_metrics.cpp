#include <cmath>
#include <fstream>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "llmft/eval/bleu.hpp"
#include "llmft/eval/rouge.hpp"

using namespace llmft;

namespace {

std::vector<nlohmann::json> golden() {
  std::ifstream in(LLMFT_SOURCE_DIR "/tests/golden/eval/metrics.jsonl");
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

void same(const Rouge& r, const nlohmann::json& wanted) {
  CHECK(r.precision == wanted[0].get<double>());
  CHECK(r.recall == wanted[1].get<double>());
  CHECK(r.f == wanted[2].get<double>());
}

}  // namespace

TEST_CASE("BLEU and ROUGE are sacrebleu's and rouge_score's on 640 pairs") {
  std::vector<BleuCounts> counts;
  int groups = 0;
  for (const auto& line : golden()) {
    if (line.contains("hyp")) {
      std::string hyp = line["hyp"], ref = line["ref"];
      CAPTURE(hyp);
      CAPTURE(ref);
      CHECK(tokenize_13a(hyp) == line["tokens"].get<std::vector<std::string>>());
      counts.push_back(bleu_counts(hyp, ref));
      auto wanted = line["counts"].get<std::vector<double>>();
      CHECK(std::vector<double>(counts.back().begin(), counts.back().end()) == wanted);
      RougeScores r = rouge(hyp, ref);
      same(r.rouge1, line["rouge"][0]);
      same(r.rouge2, line["rouge"][1]);
      same(r.rouge_l, line["rouge"][2]);
    } else if (line.contains("group")) {
      BleuCounts sums{};
      for (size_t i : line["group"].get<std::vector<size_t>>())
        for (size_t c = 0; c < sums.size(); ++c) sums[c] += counts.at(i)[c];
      CHECK(bleu(sums) == doctest::Approx(line["bleu"].get<double>()).epsilon(1e-13));
      ++groups;
    } else {
      std::string signature = line["signature"];  // the last part is sacrebleu's version
      CHECK(signature.substr(0, signature.rfind('|')) == kBleuSignature);
    }
  }
  CHECK(counts.size() == 640);
  CHECK(groups >= 70);
}
