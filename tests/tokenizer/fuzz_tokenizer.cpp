// libFuzzer's entry:
//   CXX=clang++ cmake -B build/fuzz -DLLMFT_FUZZ=ON -DLLMFT_CUDA=OFF -DLLMFT_SANITIZE=ON -DLLMFT_WERROR=OFF
//   cmake --build build/fuzz --target fuzz_tokenizer && build/fuzz/tests/fuzz_tokenizer -max_len=400
//   CORPUS_FOLDER
#include <cstdio>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const llmft::test::FuzzTarget target;
  const std::string text = llmft::test::text_of({reinterpret_cast<const char*>(data), size});
  const std::string wrong = target.check(text);
  if (wrong.empty()) return 0;
  std::fprintf(stderr, "%s\n", wrong.c_str());
  std::abort();
}
