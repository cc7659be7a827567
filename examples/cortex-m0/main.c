/* Reads ten digits that are compiled in, and says what it takes each for. */
#include "digits.h"
#include "model/src/tiny2k.h"
#include "model/src/tinydigits.h"
#include "semihosting.h"

#define SCRATCH 4608 /* bytes, at least what tinydigits_scratch(model) says */

int main(void)
{
    static uint32_t scratch[SCRATCH / 4];
    int32_t logits[10];
    const void *model = tinydigits_model_tiny2k;
    int right = 0;

    if (tinydigits_check(model, sizeof tinydigits_model_tiny2k) != 0 ||
        tinydigits_scratch(model) > sizeof scratch || tinydigits_classes(model) != 10) {
        write_text("the model does not fit\n");
        return 1;
    }
    for (int digit = 0; digit < 10; digit++) {
        int prediction = tinydigits_predict(model, digits[digit], logits, scratch);
        write_text(tinydigits_class_name(model, digit));
        write_text(" is read as ");
        write_text(tinydigits_class_name(model, prediction));
        write_text("\n");
        right += prediction == digit;
    }
    write_text(right == 10 ? "all ten are right\n" : "not all are right\n");
    return right != 10;
}
