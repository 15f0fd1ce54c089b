#include <iostream>
#include <ort_genai.h>

int main() {
  auto model = OgaModel::Create(".");  // reads genai_config.json
  auto tokenizer = OgaTokenizer::Create(*model);
  auto prompt = OgaSequences::Create();
  tokenizer->Encode("def main(", *prompt);
  auto params = OgaGeneratorParams::Create(*model);
  params->SetSearchOption("max_length", 48.0);
  auto generator = OgaGenerator::Create(*model, *params);
  generator->AppendTokenSequences(*prompt);
  while (!generator->IsDone()) generator->GenerateNextToken();
  std::cout << tokenizer->Decode(generator->GetSequenceData(0), generator->GetSequenceCount(0)) << "\n";
}
