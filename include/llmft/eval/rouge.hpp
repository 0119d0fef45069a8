// ROUGE-1, -2 and -L (Lin 2004) equal to rouge_score's RougeScorer without a stemmer, its default: words are
// runs of a-z and 0-9 after lower-casing; F is the harmonic mean of precision and recall.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace llmft {

constexpr const char* kRougeSignature = "rouge_score|stemmer:no|f-measure";

struct Rouge {
  double precision = 0;
  double recall = 0;
  double f = 0;  // 0..1
};
struct RougeScores {
  Rouge rouge1, rouge2, rouge_l;
};

std::vector<std::string> tokenize_rouge(std::string_view text);
RougeScores rouge(std::string_view prediction, std::string_view target);

}  // namespace llmft
